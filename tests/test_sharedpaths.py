# SPDX-License-Identifier: GPL-2.0-only
"""`snptest boot` in /tmp: what the command names there is seen by the kernel, or it is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.vng import init
from harness.vng.sharedpaths import OWN, shared, unseen
from harness.vng.shell import enter_folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the guest has of its own."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setattr("harness.vng.sharedpaths.OWN", (str(folder),))
    return folder


def put(path: Path, mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def test_the_working_directory_and_all_in_it(own: Path) -> None:
    work = own / "a b" / "work"
    put(work / "repro")
    assert shared(["./repro", "arg"], work) == [str(work)]
    assert shared(["sh", "-c", "./repro"], work) == [str(work)]
    assert shared(["../work/repro"], work) == [str(work)]
    assert unseen(["./repro"], work) == ""


def test_a_program_brings_what_lies_beside_it(own: Path, tmp_path: Path) -> None:
    program = put(own / "x" / "repro")
    assert shared([program], tmp_path) == [str(own / "x")]
    assert shared([os.path.relpath(program, tmp_path)], tmp_path) == [str(own / "x")]
    assert shared([program, str(own / "x")], own / "x") == [str(own / "x")]


def test_in_the_folder_itself_only_what_is_named(own: Path) -> None:
    """All of /tmp cannot be put back: then it would be the guest's no more."""
    program, data = put(own / "repro"), put(own / "data")
    put(own / "other")
    assert shared(["./repro", "data"], own) == [program, data]
    assert shared(["sh", "-x", "repro", "--in=data"], own) == [program, data]
    assert unseen(["./repro"], own) == (
        f"the kernel has a {own} of its own: of this machine's it sees repro"
    )
    assert unseen(["ls"], own).endswith("it is empty")
    assert shared(["ls", str(own), "."], own) == []


def test_links_are_followed(own: Path, tmp_path: Path) -> None:
    program = put(own / "x" / "repro")
    (tmp_path / "link").symlink_to(program)
    assert shared(["./link"], tmp_path) == [str(own / "x")]
    outside = tmp_path / "outside"
    put(outside / "repro")
    (own / "there").symlink_to(outside)
    assert shared([str(own / "there" / "repro")], tmp_path) == [str(own / "there")]


def test_what_is_not_there_or_elsewhere_is_left_alone(own: Path, tmp_path: Path) -> None:
    elsewhere = put(tmp_path / "repro")
    for command in (["true"], [elsewhere], ["/does/not/exist"], ["ls", str(own / "no")], ["x", ""]):
        assert shared(command, tmp_path) == []
    assert shared(["cat", "/dev/null", "/proc/self/status", "a\0b", "x" * 9000], tmp_path) == []


@pytest.mark.parametrize(
    ("command", "folder"), [(["true"], "/dev/shm"), (["/proc/self/exe"], "/"), (["x"], "/sys/fs")]
)
def test_what_cannot_be_seen_is_told_before_the_boot(command: list[str], folder: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be seen by the kernel: it has a /(dev|proc|sys)"):
        shared(command, Path(folder))


def test_these_are_what_the_guest_mounts_over() -> None:
    covered = {target for _, target, kind in init._MOUNTS if kind == "tmpfs"}
    assert covered - {"/dev/shm"} == set(OWN)


def test_a_shell_goes_to_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a "folder"'
    folder.mkdir()
    for hidden, steps in ((False, 0), (True, 2)):
        commands = enter_folder(folder, hidden=hidden)
        assert commands.count(" && ") == steps
        script = f"mount() {{ :; }}; {commands} && pwd"
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == f"{folder}\n"


MOUNTS = """\
import os, sys
from harness.vng import init
work, file = sys.argv[1:]
top = os.path.dirname(file)
held = [(path, os.open(path, os.O_PATH)) for path in (work, file)]
init.mount("tmpfs", top, "tmpfs")
assert os.listdir(top) == []
for path, each in held:
    init.put_back(path, each)
print(open(os.path.join(work, "data")).read(), open(file).read(), sorted(os.listdir(top)))
open(os.path.join(top, "new"), "w").close()
"""


def test_what_is_put_back_is_there_and_the_rest_is_not(tmp_path: Path) -> None:
    """As process 1 does it, in a mount namespace of its own."""
    unshare = shutil.which("unshare")
    allowed = unshare and not subprocess.run([unshare, "-m", "true"], check=False).returncode
    if not allowed:
        pytest.skip("no mount namespace can be made here")
    work = tmp_path / "own" / "some thing" / "work"
    put(work / "data")
    file = put(tmp_path / "own" / "file")
    put(tmp_path / "own" / "other")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", MOUNTS, str(work), file],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/sh\n #!/bin/sh\n ['file', 'some thing']")
    assert not (tmp_path / "own" / "new").exists()
