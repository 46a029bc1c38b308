# SPDX-License-Identifier: GPL-2.0-only
"""What builds need of a machine: seen by what is there, named as its distribution names it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from harness import distributions, doctor, host_packages, kbuild
from harness.distributions import FAMILIES, how_to_install
from harness.errors import UserError
from harness.host_packages import BRINGS, ensure_packages, missing_packages
from harness.kselftest import build as selftests
from harness.machine import compile as machine
from harness.machine import roms
from harness.preflight.finding import State

ROOT = Path(__file__).resolve().parents[1]
FILES = frozenset(roms.PACKAGES)
"""Packages whose files their user looks for himself."""
OS_RELEASE = {
    "debian": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "debian-like": "# a comment\nID=linuxmint\nID_LIKE='ubuntu debian'\n",
    "fedora": 'NAME="Fedora Linux"\nID=fedora\nVARIANT_ID=server\n',
    "fedora-like": 'ID="rocky"\nID_LIKE="rhel centos fedora"\n',
    "arch": "NAME='Arch Linux'\nID=arch\n",
    "arch-like": "ID=manjaro\nID_LIKE=arch\n",
    "suse": 'ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n',
    "nixos": 'ID=nixos\nID_LIKE=""\n',
}

System = Callable[..., Path]


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """Make a machine of stand-ins: which programs, headers and pkg-config modules it has."""

    def make(without: Iterable[str] = (), os_release: str = "", extra: Iterable[str] = ()) -> Path:
        folder = tmp_path / "bin"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        has = [each for name, each in BRINGS.items() if name not in without]
        programs = {program for each in has for program in each.programs}
        for program in (*programs, *extra):
            _script(folder / program, "exit 0")
        headers = "|".join(f"*{each.header}*" for each in has if each.header) or "none"
        if "gcc" in programs:
            _script(folder / "gcc", f"read line; case $line in {headers}) exit 0;; esac; exit 1")
        modules = "|".join(each.module for each in has if each.module) or "none"
        if "pkg-config" in programs:
            _script(folder / "pkg-config", f"case $2 in {modules}) exit 0;; esac; exit 1")
        release = tmp_path / "os-release"
        release.write_text(os_release)
        monkeypatch.setattr(distributions, "OS_RELEASE", (tmp_path / "none", release))
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return make


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("packages", [kbuild.PACKAGES, selftests.PACKAGES, machine.PACKAGES])
def test_a_system_without_dpkg_that_has_the_tools_needs_no_list(
    system: System, packages: tuple[str, ...]
) -> None:
    system()
    assert missing_packages(packages) == []
    ensure_packages(packages, "for a test")
    system(without=["ccache", "libssl-dev"])
    ensure_packages(packages, "for a test")  # what is good for something, but not needed


@pytest.mark.parametrize(
    ("release", "remedy"),
    [
        ("debian", "apt-get install flex libelf-dev libc6-dev"),
        ("debian-like", "apt-get install flex libelf-dev libc6-dev"),
        ("fedora", "dnf install flex elfutils-libelf-devel glibc-devel"),
        ("fedora-like", "dnf install flex elfutils-libelf-devel glibc-devel"),
        ("arch", "pacman -S --needed flex libelf glibc"),
        ("arch-like", "pacman -S --needed flex libelf glibc"),
        ("suse", "zypper install flex libelf-devel glibc-devel"),
        ("nixos", "nix-shell -p flex elfutils gcc"),
        ("", "install what Debian calls flex libelf-dev libc6-dev"),
    ],
)
def test_what_is_missing_is_told_by_command_and_by_package(
    system: System, release: str, remedy: str
) -> None:
    lacks = ("flex", "libelf-dev", "libc6-dev")
    system(without=lacks, os_release=OS_RELEASE.get(release, ""))
    with pytest.raises(UserError) as caught:
        ensure_packages(lacks, "for building kernels")
    assert caught.value.message == "missing for building kernels: flex, gelf.h, stdlib.h"
    assert caught.value.hint == remedy


@pytest.mark.parametrize("package", sorted({*kbuild.PACKAGES, *selftests.PACKAGES}))
def test_doctor_and_build_want_the_same(system: System, package: str) -> None:
    """Each thing that a build wants is looked for by doctor, and nothing else is."""
    system(without=[package], os_release=OS_RELEASE["fedora"])
    for topic, packages in (
        ("kernel build", kbuild.PACKAGES),
        ("selftests' build", selftests.PACKAGES),
    ):
        finding = next(each for each in doctor._kernel_build() if each.topic == topic)
        said = refused(packages)
        assert (finding.state is State.MISSING) is (said is not None)
        if said is not None:
            assert (finding.found, finding.remedy) == (said.message, said.hint)


def refused(packages: tuple[str, ...]) -> UserError | None:
    """Return what a build says of what is missing."""
    try:
        ensure_packages(packages, "")
    except UserError as error:
        error.message = error.message.replace("missing :", "missing:")
        return error
    return None


def test_everything_that_is_wanted_can_be_looked_for() -> None:
    wanted = {*kbuild.PACKAGES, *selftests.PACKAGES, *machine.PACKAGES, *roms.PACKAGES}
    assert wanted - FILES <= BRINGS.keys()
    names = {name for family in FAMILIES.values() for name in family.names}
    assert names <= BRINGS.keys() | FILES | {"python3", "python3-venv"}


def test_on_debian_dpkg_is_asked_only_of_what_is_not_seen(system: System, tmp_path: Path) -> None:
    folder = system(without=["flex", "bison"], extra=["dpkg-query", "apt-get"])
    asked = tmp_path / "asked"
    _script(folder / "dpkg-query", f'echo "$@" > {asked}; echo "bison installed"')
    assert missing_packages(["gcc", "flex", "bison", "make"]) == ["flex"]
    assert asked.read_text().split()[-2:] == ["flex", "bison"]


def test_os_release_that_is_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "os-release"
    monkeypatch.setattr(distributions, "OS_RELEASE", (path,))
    assert distributions.distribution() is None
    for text in ("", "ID=", "nonsense", "ID='open", "\x00\xff", "ID_LIKE=\n"):
        path.write_text(text, encoding="latin-1")
        assert distributions.distribution() is None
    assert how_to_install(["git"]) == "install what Debian calls git"


def script(name: str, arguments: list[str], release: Path) -> str:
    """Call a function of ./snptest."""
    text = (ROOT / "snptest").read_text()
    body = text[text.index("# What this system's distribution") : text.index("# Install Debian")]
    done = subprocess.run(
        ["/bin/sh", "-euc", f'{body}\n{name} "$@"', "sh", *arguments],
        env={"PATH": os.environ["PATH"], "SNPTEST_OS_RELEASE": str(release)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("release", OS_RELEASE)
def test_the_script_says_the_same(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """./snptest has names of its own, for it starts without Python."""
    path = tmp_path / "os-release"
    path.write_text(OS_RELEASE[release])
    monkeypatch.setattr(distributions, "OS_RELEASE", (path,))
    for package in ("python3", "python3-venv", "gcc", "binutils", "libc6-dev"):
        assert script("how_to_install", [package], path) == how_to_install([package])
    both = ["python3", "python3-venv"]
    assert script("how_to_install", both, path) == how_to_install(both)
    assert host_packages.lacking(["gcc"]) == "gcc"
