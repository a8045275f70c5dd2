"""Test processes that share a machine (pytest -n) share its cores."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    num_cores = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(num_cores, 1)))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # or all engines would run on the same core
