# SPDX-License-Identifier: GPL-2.0-only
"""Packages that a task needs: seen by what they bring, installed by apt after saying so.

A package is named as Debian does.  It is there where the programs or headers are that it is
wanted for, whoever has put them there; only on a Debian system dpkg is asked about the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.distributions import how_to_install
from harness.errors import UserError

INSTALL_TIMEOUT = 900.0
PROBE_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Brings:
    """What a package is wanted for."""

    programs: tuple[str, ...] = ()
    header: str = ""
    module: str = ""
    """Name that pkg-config knows."""
    optional: str = ""
    """What it is good for, where all works without it."""

    @property
    def names(self) -> str:
        """What is looked for, for messages: 'ld, as' or 'libelf.h'."""
        return ", ".join((*self.programs, *filter(None, (self.header, self.module))))


BRINGS = {
    "git": Brings(("git",)),
    "make": Brings(("make",)),
    "gcc": Brings(("gcc",)),
    "binutils": Brings(("as", "ld", "ar", "nm", "objcopy", "objdump", "readelf", "strip")),
    "libc6-dev": Brings(header="stdlib.h"),
    "flex": Brings(("flex",)),
    "bison": Brings(("bison",)),
    "bc": Brings(("bc",)),
    "libelf-dev": Brings(header="gelf.h"),
    "libssl-dev": Brings(header="openssl/evp.h", optional="for configurations that sign modules"),
    "xz-utils": Brings(("xz",)),
    "zstd": Brings(("zstd",)),
    "ccache": Brings(("ccache",), optional="makes builds faster"),
    "ninja-build": Brings(("ninja",)),
    "pkg-config": Brings(("pkg-config",)),
    "libglib2.0-dev": Brings(module="glib-2.0"),
    "zlib1g-dev": Brings(header="zlib.h"),
    "libattr1-dev": Brings(header="attr/libattr.h"),
    "libcap-ng-dev": Brings(header="cap-ng.h"),
    "qemu-system-x86": Brings(("qemu-system-x86_64",)),
    "mawk": Brings(("awk",)),
    "diffutils": Brings(("diff", "cmp")),
    "findutils": Brings(("find", "xargs")),
    "gzip": Brings(("gzip",)),
    "tar": Brings(("tar",)),
    "bash": Brings(("bash",)),
    "kmod": Brings(("depmod",)),
    "openssh-client": Brings(("ssh", "ssh-add", "ssh-agent", "ssh-keygen")),
    "openssh-server": Brings(("sshd",)),
}
"""By Debian's name of the package."""


def missing_packages(packages: Iterable[str]) -> list[str]:
    """Return those of the packages that are not there, in their order."""
    unseen = [package for package in packages if not _is_seen(package)]
    if not unseen or shutil.which("dpkg-query") is None:
        return unseen
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *unseen],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    installed = {
        line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")
    }
    return [package for package in unseen if package not in installed]


def lacking(packages: Iterable[str]) -> str:
    """Name what is looked for of packages that are missing: 'flex, gelf.h'."""
    return ", ".join(BRINGS[each].names if each in BRINGS else each for each in packages)


def optional(package: str) -> str:
    """Say what a package is good for where all works without it; "" where it is needed."""
    return BRINGS[package].optional if package in BRINGS else ""


def ensure_packages(packages: Iterable[str], why: str, say: Callable[[str], None] = print) -> None:
    """Install what is missing with apt-get, saying so first; UserError where that is impossible."""
    missing = missing_packages(packages)
    if shutil.which("apt-get") is None:
        missing = [each for each in missing if not optional(each)]
        if missing:
            raise UserError(f"missing {why}: {lacking(missing)}", how_to_install(missing))
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


def _is_seen(package: str) -> bool:
    """Whether what a package is wanted for is there."""
    brings = BRINGS.get(package)
    if brings is None or any(shutil.which(program) is None for program in brings.programs):
        return False
    if brings.header:
        return _succeeds(
            ["gcc", "-E", "-x", "c", "-o", os.devnull, "-"], f"#include <{brings.header}>"
        )
    return not brings.module or _succeeds(["pkg-config", "--exists", brings.module])


def _succeeds(command: list[str], given: str = "") -> bool:
    try:
        done = subprocess.run(
            command,
            input=f"{given}\n",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


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
