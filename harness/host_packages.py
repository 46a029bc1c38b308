# SPDX-License-Identifier: GPL-2.0-only
"""Debian packages that a task needs: looked up, and installed after saying so."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from harness.errors import UserError

INSTALL_TIMEOUT = 900.0


def missing_packages(packages: Iterable[str]) -> list[str]:
    """Return those of the packages that are not installed, in their order."""
    wanted = list(packages)
    if shutil.which("dpkg-query") is None:
        raise UserError(
            "this is no Debian system, and packages cannot be looked up",
            f"install the equivalent of: {' '.join(wanted)}",
        )
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *wanted],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    installed = {
        line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")
    }
    return [package for package in wanted if package not in installed]


def ensure_packages(packages: Iterable[str], why: str, say: Callable[[str], None] = print) -> None:
    """Install what is missing with apt-get, saying so first; UserError where that is impossible."""
    missing = missing_packages(packages)
    if not missing:
        return
    with _one_at_a_time():
        missing = missing_packages(missing)  # another process may have installed them meanwhile
        if missing:
            say(f"installing Debian packages {why}: {' '.join(missing)}")
            run_apt(["update", "-q"])
            run_apt(["install", "-q", "-y", "--no-install-recommends", *missing])
    if still := missing_packages(missing):
        raise UserError(f"apt-get installed no {' '.join(still)}", "install them by hand")


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keep our own processes from running apt at the same time; a dead one's lock is free."""
    deadline = time.monotonic() + INSTALL_TIMEOUT
    with open(Path(tempfile.gettempdir()) / f"snptest-apt-{os.getuid()}.lock", "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"another snptest has been installing packages for {INSTALL_TIMEOUT:g} s",
                        "see whether apt-get hangs",
                    ) from None
                time.sleep(0.2)
        yield


def run_apt(arguments: list[str]) -> None:
    """Run apt-get as root; UserError with what it said when it fails."""
    command = ["apt-get", "-o", f"DPkg::Lock::Timeout={INSTALL_TIMEOUT:.0f}", *arguments]
    by_hand = f"as root: {' '.join(command)}"
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            raise UserError("installing packages needs root", by_hand)
        command = ["sudo", "-n", *command]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=INSTALL_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"apt-get did not end within {INSTALL_TIMEOUT:g} s", by_hand) from None
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("E:")] or lines[-1:]
        raise UserError(f"apt-get failed: {errors[0] if errors else 'no output'}", by_hand)
