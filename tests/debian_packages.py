"""Installs Debian packages that tests need, where that is possible: as root, with apt-get."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SECONDS_FOR_LOCK = 120  # another process of the machine may be installing, too


def install(packages: list[str]) -> None:
    """Skips the test, with the reason, where they cannot be installed."""
    missing = f"not installed: {', '.join(packages)}"
    if not shutil.which("apt-get"):
        pytest.skip(f"{missing}; and there is no apt-get")
    if os.geteuid():
        pytest.skip(f"{missing}; and only root can install it (apt-get install {' '.join(packages)})")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-y", "-qq", "-o", f"DPkg::Lock::Timeout={SECONDS_FOR_LOCK}"]
    with open(Path(tempfile.gettempdir(), "apt-get-for-tests.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of the processes of the tests one at a time: `update` would not wait
        for command in (["update"], ["install", "--no-install-recommends", *packages]):
            done = subprocess.run(
                ["apt-get", *options, *command], env=environment, capture_output=True, text=True, timeout=300
            )
            if done.returncode:
                said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
                pytest.skip(f"{missing}; apt-get {command[0]}: {said[-1]}")
