# SPDX-License-Identifier: GPL-2.0-only
"""Debian packages that a task needs: looked up, and installed after saying so."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable

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
    say(f"installing Debian packages {why}: {' '.join(missing)}")
    run_apt(["update", "-q"])
    run_apt(["install", "-q", "-y", "--no-install-recommends", *missing])
    if still := missing_packages(missing):
        raise UserError(f"apt-get installed no {' '.join(still)}", "install them by hand")


def run_apt(arguments: list[str]) -> None:
    """Run apt-get as root; UserError with what it said when it fails."""
    command = ["apt-get", *arguments]
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
