# SPDX-License-Identifier: GPL-2.0-only
"""The start script, with a Python environment faked so that nothing is downloaded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
import time
from pathlib import Path

import pytest

from harness.places import ROOT

SCRIPT = ROOT / "snptest"

# Stands for python3: makes a "venv" of itself, and pip that takes its time.
FAKE_PYTHON = """\
    #!/bin/sh
    case "$*" in
    "-c import sys"*) exit 0 ;;
    "-c import ensurepip"*) exit 0 ;;
    "-c import importlib"*) echo "${MISSING:-}" ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$FAKE" "$3/bin/python"; echo venv >>"$TRACE" ;;
    "-m pip --version") exit 0 ;;
    "-m pip install"*)
        echo "pip $*" >>"$TRACE"
        [ -z "${SHOW:-}" ] || env | grep ^PIP_ >"$SHOW"
        sleep "${PIP_SECONDS:-0}"
        exit "${PIP_STATUS:-0}" ;;
    "- "*) echo unicorn ;;
    "-P -m harness"*) [ -z "${SHOW:-}" ] || env | grep ^PYTHON >>"$SHOW"
        shift 3; echo "harness: $*"; echo "cwd: $PWD"; echo "path: $PYTHONPATH" ;;
    *) echo "unexpected: $*" >&2; exit 99 ;;
    esac
"""


class Tree:
    """A copy of the script in a tree of its own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree"
        self.root.mkdir()
        shutil.copy(SCRIPT, self.root)
        (self.root / "pyproject.toml").write_text("one")
        self.trace = folder / "trace"
        self.trace.touch()
        fake = folder / "python3"
        fake.write_text(textwrap.dedent(FAKE_PYTHON))
        fake.chmod(0o755)
        self.environment = os.environ | {
            "SNPTEST_PYTHON": str(fake),
            "FAKE": str(fake),
            "TRACE": str(self.trace),
        }
        self.environment.pop("SNPTEST_VENV", None)
        self.environment.pop("PYTHONPATH", None)

    def start(
        self, *arguments: str, script: Path | None = None, **extra: str
    ) -> subprocess.Popen[str]:
        """Start the script."""
        return subprocess.Popen(
            [str(script or self.root / "snptest"), *arguments],
            cwd="/",
            env=self.environment | extra,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *arguments: str, script: Path | None = None, **extra: str
    ) -> tuple[int, str, str]:
        """Run the script to its end: code, stdout, stderr; what is extra is environment."""
        with self.start(*arguments, script=script, **extra) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def steps(self) -> list[str]:
        """What the fake Python was asked to make."""
        return [line.split()[0] for line in self.trace.read_text().splitlines()]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_syntax_is_posix(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n", str(SCRIPT)], check=True, timeout=60)


def test_shellcheck_finds_nothing() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck here: apt-get install shellcheck")
    subprocess.run(["shellcheck", str(SCRIPT)], check=True, timeout=60)


def test_environment_is_made_once(tree: Tree) -> None:
    code, out, err = tree.run("run", "a b")
    assert code == 0, err
    assert out.splitlines() == ["harness: run a b", "cwd: /", f"path: {tree.root}"]
    assert "making the Python environment" in err
    code, _, err = tree.run("doctor")
    assert (code, err) == (0, "")
    assert tree.steps() == ["venv", "pip"]


def test_a_folder_may_have_any_name_but_one_with_a_colon(tmp_path: Path) -> None:
    folder = tmp_path / "a b,c@2 é'#%"
    folder.mkdir()
    tree = Tree(folder)
    for _ in range(2):
        code, out, _ = tree.run("run", "x y", TMPDIR=str(folder))
        assert code == 0
        assert out.splitlines()[0] == "harness: run x y"
        assert f"path: {tree.root}" in out
    assert tree.trace.read_text().count("venv\n") == 1
    colon = tmp_path / "a:b"
    colon.mkdir()
    code, _, err = Tree(colon).run("run")
    assert code == 3
    assert f"a folder with a colon in its name cannot be in PATH: {colon}/tree" in err


def test_changed_requirements_update_it(tree: Tree) -> None:
    tree.run()
    (tree.root / "pyproject.toml").write_text("two")
    _, _, err = tree.run()
    assert "pyproject.toml has changed" in err
    assert tree.steps() == ["venv", "pip", "pip"]


def test_works_through_symbolic_links(tree: Tree, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "dir" / "second"
    second.parent.mkdir()
    first.symlink_to("tree/snptest")
    second.symlink_to("../first")
    code, out, err = tree.run("x", script=second)
    assert code == 0, err
    assert f"path: {tree.root}" in out


def test_two_at_once_make_it_once(tree: Tree) -> None:
    first = tree.start(PIP_SECONDS="1")
    second = tree.start(PIP_SECONDS="1")
    for process in (first, second):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert tree.steps() == ["venv", "pip"]


def test_interrupted_start_is_begun_anew(tree: Tree) -> None:
    process = tree.start(PIP_SECONDS="60")
    deadline = time.monotonic() + 30
    while "pip" not in tree.steps():
        assert time.monotonic() < deadline, "pip was never started"
        time.sleep(0.05)
    os.killpg(process.pid, 15)
    process.communicate(timeout=60)
    assert process.returncode != 0
    code, _, err = tree.run()
    assert code == 0, err
    assert tree.steps() == ["venv", "pip", "venv", "pip"]


def test_failure_of_pip_is_told_and_tried_again(tree: Tree) -> None:
    code, _, err = tree.run(PIP_STATUS="1")
    assert code == 3
    assert "pip could not install" in err
    assert "PIP_INDEX_URL" in err
    assert tree.run()[0] == 0


@pytest.mark.parametrize(("command", "code"), [("run", 3), ("bisect-step", 128)])
@pytest.mark.parametrize("fault", ["pip", "no pyproject.toml", "no python", "no program"])
def test_what_fails_before_python_is_no_failed_test(
    tree: Tree, fault: str, command: str, code: int
) -> None:
    """Not 1; and nothing that `git bisect run` takes for a bad revision."""
    extra = {}
    match fault:
        case "pip":
            extra["PIP_STATUS"] = "1"
        case "no pyproject.toml":
            (tree.root / "pyproject.toml").unlink()
        case "no python":
            extra |= {"SNPTEST_PYTHON": "/no/such/python", "PATH": "/no/such"}
        case _:
            tree.run()
            (tree.root / ".venv" / "bin" / "python").write_text("#!/no/such/interpreter\n")
    tree.environment |= extra
    got, _, err = tree.run(command)
    assert got == code or (fault == "no program" and got in (126, 127)), err
    assert err


def test_variables_of_another_python_are_dropped(tree: Tree) -> None:
    tree.run()
    python = tree.root / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "[$PYTHONHOME$PYTHONOPTIMIZE] $1"\n')
    code, out, _ = tree.run("run", PYTHONHOME="/no/such", PYTHONOPTIMIZE="1")
    # -P: what lies in the directory that it is started from is no module of ours.
    assert (code, out) == (0, "[] -P\n")


def test_exit_code_is_that_of_the_command(tree: Tree) -> None:
    tree.run()
    python = tree.root / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\nexit 7\n")
    assert tree.run("run")[0] == 7


@pytest.fixture
def other_system(tree: Tree, tmp_path: Path) -> Path:
    """A system without apt and dpkg: the tree starts there, with this folder as PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for place in ("/bin", "/usr/bin"):
        for program in Path(place).iterdir():
            link = folder / program.name
            if not link.exists() and not re.match(r"apt|dpkg|gcc|as$|python3", program.name):
                link.symlink_to(program)
    release = tmp_path / "os-release"
    release.write_text("ID=fedora\n")
    tree.environment |= {"PATH": str(folder), "SNPTEST_OS_RELEASE": str(release)}
    return folder


@pytest.mark.usefixtures("other_system")
def test_what_another_system_lacks_is_told_by_its_names(tree: Tree) -> None:
    code, _, err = tree.run("run")
    assert code == 3
    assert err.splitlines() == [
        "snptest: missing: gcc, as, ld and objcopy, stdlib.h",
        "  hint: dnf install gcc binutils glibc-devel",
    ]
    code, _, err = tree.run("run", SNPTEST_PYTHON="no-such-python")
    assert code == 3
    assert "missing: Python 3.11 or newer" in err
    assert "hint: dnf install python3" in err


def test_another_system_that_has_all_is_as_good(tree: Tree, other_system: Path) -> None:
    for name in ("gcc", "as"):
        program = other_system / name
        program.write_text("#!/bin/sh\nexit 0\n")
        program.chmod(0o755)
    code, out, err = tree.run("run")
    assert code == 0, err
    assert "harness: run" in out


def test_what_is_meant_for_other_pythons_does_not_reach_ours(tree: Tree, tmp_path: Path) -> None:
    """PYTHONHOME and PYTHONPATH would bring other modules, pip's settings install elsewhere."""
    shown = tmp_path / "shown"
    others = {
        "PYTHONHOME": "/usr",
        "PYTHONPATH": "/opt/ros",
        "PYTHONOPTIMIZE": "2",
        "PYTHONINSPECT": "1",
        "PYTHONIOENCODING": "ascii",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_TARGET": "/opt/elsewhere",
        "PIP_USER": "1",
        "PIP_DRY_RUN": "1",
        "PIP_INDEX_URL": "https://pypi.example.org/simple",
    }
    tree.environment |= others
    code, _, err = tree.run(SHOW=str(shown))
    assert code == 0, err
    reached = dict(line.split("=", 1) for line in shown.read_text().splitlines())
    python = {name: value for name, value in reached.items() if name.startswith("PYTHON")}
    assert python == {
        "PYTHONPATH": str(tree.root),
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    assert (reached["PIP_TARGET"], reached["PIP_USER"], reached["PIP_DRY_RUN"]) == ("", "0", "0")
    assert reached["PIP_INDEX_URL"] == "https://pypi.example.org/simple"


def test_what_pip_did_not_install_is_told(tree: Tree) -> None:
    code, out, err = tree.run(MISSING="unicorn rich")
    assert (code, out) == (3, "")
    assert "pip ended well, but did not install: unicorn rich" in err
    assert tree.run()[0] == 0  # not taken for complete


def test_a_folder_that_is_no_environment_is_not_removed(tree: Tree, tmp_path: Path) -> None:
    """SNPTEST_VENV=~ by mistake must not cost a home."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis").write_text("years of work")
    code, _, err = tree.run(SNPTEST_VENV=str(home))
    assert code == 3
    assert "is no Python environment, and not empty" in err
    assert (home / "thesis").read_text() == "years of work"


def test_what_fails_in_the_script_is_no_failed_test(tree: Tree) -> None:
    """A full or read-only disk ends the shell with 1, which means that a test failed."""
    (tree.root / ".venv").mkdir()
    (tree.root / ".venv/requirements.txt").mkdir()  # cannot be written
    (tree.root / ".venv/bin").mkdir()
    shutil.copy(tree.environment["FAKE"], tree.root / ".venv/bin/python")
    (tree.root / ".venv/.snptest-complete").write_text(f"old\n{tree.root}/.venv\n")
    code, _, err = tree.run()
    assert code == 3, err
