# SPDX-License-Identifier: GPL-2.0-only
"""Folders with spaces, commas and the like: in QEMU's options, in the kernel's command line."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import kbuild
from harness.errors import UsageError
from harness.kbuild import cache
from harness.machine import build as building
from harness.vng import init, machine
from harness.vng.kinds import Machine
from harness.vng.machine import Paths, Setup, agent_command, script_command, shell_command
from harness.vng.share import make_paths, make_scratch

ODD = "a b,c@2 %d é=#"
SITE = "/x y,z/.venv/lib/python3.11/site-packages/virtme/guest/bin/virtme-ng-init"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of such a name: current directory, TMPDIR and cache."""
    folder = tmp_path / ODD
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def paths(place: Path) -> Iterator[Paths]:
    made = make_paths(place / "mine.1.1.log")
    yield made
    shutil.rmtree(made.scratch)


@pytest.fixture
def setup(place: Path) -> Setup:
    """A kernel that lies there, and a QEMU that only says its version."""
    qemu = place / "qemu-system-x86_64"
    qemu.write_text("#!/bin/sh\necho QEMU emulator version 10.0.11\n")
    qemu.chmod(0o755)
    image = place / "bzImage"
    image.touch()
    return Setup(image, Machine("stock", str(qemu), ("-cpu", "max"), None))


def test_a_boot_from_such_a_folder(
    place: Path, paths: Paths, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """virtme-ng's own folder has a space, too: it puts its init in quotes then."""
    plain = machine._virtme(setup, paths, "--script-sh", ":")
    at = plain.index("-append") + 1
    words = plain[at].rpartition(" init=")[0]
    for line in (plain[at], f'{words} "init={SITE}"'):
        composed = [*plain[:at], line, *plain[at + 1 :]]
        monkeypatch.setattr(machine, "_virtme", lambda *_, c=composed: list(c))
        command = agent_command(setup, paths)
        append = command[command.index("-append") + 1]
        before, _, after = append.partition(" -- ")
        assert before.endswith(f" init={machine.python()}")
        assert "virtme-ng-init" not in append
        assert shlex.split(after)[2:4] == [f"{paths.share}/init.py", str(paths.share)]
        assert command[command.index("-kernel") + 1] == str(place / "bzImage")


def test_no_option_of_qemu_has_what_means_something_to_it(
    place: Path, paths: Paths, setup: Setup
) -> None:
    """But for the image and the program, which are words of their own."""
    for compose in (agent_command, script_command, shell_command):
        command = compose(setup, paths)
        odd = [word for word in command if ODD in word]
        assert set(odd) <= {str(setup.image), setup.machine.qemu}, compose.__name__
    assert paths.kept.resolve() == place.resolve()
    (paths.kept / paths.status.name).write_text("4")
    assert paths.status.read_text() == "4"


def test_what_virtme_leaves_behind_goes_with_the_machine(
    place: Path, paths: Paths, setup: Setup
) -> None:
    script_command(setup, paths)
    assert not list(place.glob("virtme*"))


@pytest.mark.parametrize("name", ["a b", "a,b", 'a"b', "a'b", "a%b", "ä", "a=b", "a#b", "d" * 120])
def test_an_odd_or_deep_tmpdir_is_not_used_for_a_boot(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    scratch = make_scratch()
    scratch.rmdir()
    assert scratch.parent == Path("/tmp")
    with tempfile.TemporaryDirectory(prefix="job@2-", dir="/tmp") as plain:
        monkeypatch.setattr(tempfile, "tempdir", plain)
        assert make_scratch().parent == Path(plain)


def test_a_python_with_a_space_in_its_path_is_put_in_quotes(
    paths: Paths, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "python", lambda: "/my python/bin/python3")
    command = agent_command(setup, paths)
    assert ' "init=/my python/bin/python3" -- -I' in command[command.index("-append") + 1]


def test_kernel_parameters_may_have_quotes_around_a_value(
    paths: Paths, place: Path, setup: Setup
) -> None:
    parameters = ('kvm.dyndbg="file sev.c +p"', "kvm_amd.dyndbg=file x.c +p", "nokaslr")
    wanted = Setup(setup.image, setup.machine, parameters=parameters)
    command = agent_command(wanted, paths)
    append = command[command.index("-append") + 1]
    assert ' "kvm.dyndbg=file sev.c +p" "kvm_amd.dyndbg=file x.c +p" nokaslr ' in append
    words = init.split_command_line(append)
    assert init.parameters("kvm", words) == '"dyndbg=file sev.c +p"'
    assert init.parameters("kvm-amd", words) == '"dyndbg=file x.c +p"'
    with pytest.raises(UsageError, match="has quotes inside"):
        agent_command(Setup(setup.image, setup.machine, parameters=('a"b',)), paths)


def test_where_make_cannot_build_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kbuild, "ensure_packages", lambda *_: None)
    monkeypatch.setattr(building, "ensure_packages", lambda *_: None)
    for name, letters in (("a b", "space"), ("x:$y", r": \$"), ("it's", "'")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        with pytest.raises(UsageError, match=f"such letters in a path: {letters} ") as caught:
            kbuild.build("mine", "linux-source-6.12")
        assert "XDG_CACHE_HOME" in caught.value.hint
        with pytest.raises(UsageError, match="QEMU cannot be built in"):
            building.build()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "job@2,x=y+z~é"))
    cache.check_buildable("kernels")
    # A link to such a folder helps nobody: make asks where it is.
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "a b")
    monkeypatch.setenv("XDG_CACHE_HOME", str(link))
    with pytest.raises(UsageError, match="space"):
        cache.check_buildable("kernels")


def test_a_relative_cache_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG Base Directory Specification: such a path is to be ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.root() == Path(os.path.expanduser("~/.cache/snptest"))
