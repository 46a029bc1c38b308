# SPDX-License-Identifier: GPL-2.0-only
"""Exit code 1 says that a test failed: not that a pipe was closed, a disk full, or we at fault."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from harness.cli import faults, streams
from harness.cli import main as command_line
from harness.errors import BuildError, UsageError
from harness.places import ROOT
from tests.history_runs import result, write

pytestmark = pytest.mark.deadline(600)

RUN = ("run", "launch", "-k", "test_the_default_type", "--interface", "v12", "-n", "0")


class Place:
    """A folder with a history, and the command line started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "SNPTEST_RESULTS": str(folder / "results"),
            "SNPTEST_HISTORY": str(folder / "history.db"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONPATH": str(ROOT),
        }

    def start(
        self, *words: str, shell: str = "", **options: object
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end; `shell` redirects its streams."""
        python = [sys.executable, "-P", "-m", "harness", *words]
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *python] if shell else python
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            timeout=240,
            check=False,
            **{"capture_output": True, **options},  # type: ignore[call-overload]
        )
        return done

    def unread(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command whose standard output is a pipe that nobody reads any more."""
        reading, writing = os.pipe()
        os.close(reading)
        try:
            return self.start(*words, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
        finally:
            os.close(writing)

    def finish(self) -> dict[str, object]:
        """Return the last line of the newest run's results."""
        path = max(self.folder.glob("results/*/results.jsonl"))
        last = json.loads(path.read_text().splitlines()[-1])
        assert isinstance(last, dict)
        return last


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "cache").mkdir()
    write(tmp_path / "stored", [result(str(number)) for number in range(40)])
    return Place(tmp_path)


COMMANDS: dict[tuple[str, ...], int] = {
    ("--help",): 0,
    ("--version",): 0,
    (): 2,
    ("no_such_command",): 2,
    RUN: 0,
    ("run", "no_such_suite"): 2,
    ("run", "--no-such-option"): 2,
    ("kselftest", "--list", "--kernel", "none"): 2,
    ("differ", "--replay", "/no/such.json"): 2,
    ("compare", "stored", "stored"): 0,
    ("compare", "no", "such"): 2,
    ("bisect", "no_such_suite"): 2,
    ("bisect-step", "psc", "--base", "/no/such"): 128,
    ("nightly", "--dry-run"): 0,
    ("check", "--help"): 0,
    ("bench", "no_such_benchmark"): 2,
    ("build", "x", "--series", "/no/such"): 2,
    ("boot", "none", "--", "true"): 2,
    ("kernels",): 0,
    ("kernels", "--json"): 0,
    ("known-issues",): 0,
    ("report", "stored", "--ktap", "-"): 0,
    ("report", "stored", "--junit", "-"): 0,
    ("report", "stored", "--kcidb", "-"): 0,
    ("report", "stored", "-o", "pages"): 0,
    ("report",): 2,
    ("machine",): 2,
    ("machine", "info"): 0,
    ("history", "import", "stored"): 0,
    ("history",): 0,
    ("history", "list", "--json"): 0,
    ("history", "show", "99"): 2,
    ("history", "test", "no_such_test"): 2,
    ("history", "prune", "--keep", "1", "--dry-run"): 0,
    ("doctor",): 0,
}


THOROUGH = (
    ("report", "stored", "--ktap", "-"),
    ("history", "list", "--json"),
    ("no_such_command",),
)
"""Tried in all ways; of the other commands, two ways find what is their own."""


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: "-".join(words[:2]) or "none")
def test_lost_streams_are_no_failed_test(place: Place, words: tuple[str, ...]) -> None:
    """Every command, with each stream closed, full or left by its reader."""
    if words[0:1] == ("history",) and words[1:2] != ("import",):
        place.start("history", "import", "stored")
    whole = place.start(*words)
    code = whole.returncode
    assert code == COMMANDS[words] or (words == ("doctor",) and code == 3), whole.stderr
    # Where all of it was on standard error, nothing of it is lost.
    broken = 3 if code == 0 and whole.stdout else code
    ways = {
        ">/dev/full": broken,
        ">&- 2>&- <&-": broken,
        ">&-": broken,
        "2>&-": code,
        "2>/dev/full": code,
        ">/dev/full 2>/dev/full": broken,
    }
    for shell, expected in list(ways.items())[: None if words in THOROUGH else 2]:
        done = place.start(*words, shell=shell)
        said = done.stdout + done.stderr
        assert done.returncode == expected, (shell, said.decode())
        assert b"Traceback" not in said
        assert b"Exception ignored" not in said
        if broken != code and "2>" not in shell:
            assert b"snptest: cannot write to standard output: " in done.stderr
    left = place.unread(*words)
    assert left.returncode == code, left.stderr.decode()
    assert b"Traceback" not in left.stderr


def test_a_run_whose_reader_left_is_finished(place: Place) -> None:
    files = ["--junit", "j.xml", "--ktap", "k.tap", "--json", "r.jsonl"]
    done = place.unread(*RUN, *files)
    assert done.returncode == 0, done.stderr.decode()
    finish = place.finish()
    assert (finish["exit"], finish["broken"]) == (0, [])
    for name in ("j.xml", "k.tap", "r.jsonl"):
        assert b"test_the_default_type" in (place.folder / name).read_bytes()
    listed = json.loads(place.start("history", "list", "--json").stdout)
    assert [run["verdict"] for run in listed] == ["good"]


@pytest.mark.parametrize("option", ["--junit", "--ktap", "--json"])
@pytest.mark.parametrize("path", ["/dev/full", "-"])
def test_a_report_that_is_lost_is_exit_3_and_told(place: Place, option: str, path: str) -> None:
    done = place.start(*RUN, option, path, shell=">/dev/full")
    assert done.returncode == 3, done.stderr.decode()
    assert b"No space left on device" in done.stderr
    finish = place.finish()
    assert finish["exit"] == 3
    assert "No space left on device" in str(finish["broken"])
    listed = json.loads(place.start("history", "list", "--json").stdout)
    assert [run["verdict"] for run in listed] == ["broken"]


@pytest.mark.parametrize(
    "words",
    [
        ("report", "stored", "--junit", "{}"),
        ("report", "stored", "--ktap", "{}"),
        ("report", "stored", "--kcidb", "{}"),
        ("compare", "stored", "stored", "--markdown", "{}"),
    ],
    ids=lambda words: f"{words[0]} {words[-2]}",
)
def test_a_file_that_cannot_be_written_is_exit_3(place: Place, words: Sequence[str]) -> None:
    done = place.start(*(word.format("/dev/full") for word in words))
    assert done.returncode == 3
    assert done.stderr == b"snptest: cannot write /dev/full: No space left on device\n"


def test_a_report_is_there_whole_or_as_it_was(place: Place) -> None:
    """The limit of a file's size stands for a disk that fills up."""
    kept = place.folder / "k.tap"
    kept.write_text("as it was\n")
    done = place.start("report", "stored", "--ktap", "k.tap", shell="; ulimit -f 1; exit 99")
    assert (done.returncode, kept.read_text()[:4]) == (0, "KTAP")
    kept.write_text("as it was\n")
    script = 'ulimit -f 1; trap "" XFSZ; exec "$@"'
    command = [sys.executable, "-P", "-m", "harness", "report", "stored", "--ktap", "k.tap"]
    limited = subprocess.run(
        ["sh", "-c", script, "sh", *command],
        cwd=place.folder,
        env=place.environment | {"TMPDIR": "/dev/shm"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert limited.returncode == 3, limited.stderr.decode()
    assert kept.read_text() == "as it was\n"
    assert [each.name for each in place.folder.glob(".k.tap*")] == []


def test_two_reports_cannot_share_standard_output(place: Place) -> None:
    done = place.start("report", "stored", "--ktap", "-", "--junit", "-")
    assert done.returncode == 2
    assert b"only one report can go to standard output" in done.stderr


def test_json_lines_are_alone_on_standard_output(place: Place) -> None:
    done = place.start(*RUN, "--json", "-")
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert (done.returncode, events[0], events[-1]) == (0, "start", "finish")


# Faults of our own ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("odd\nnumber"), 3, "internal error: ValueError: odd\n"),
        (AssertionError(), 3, "internal error: AssertionError\n"),
        (MemoryError(), 3, "there is not enough memory"),
        (OSError(errno.ENOSPC, "No space left", "/x"), 3, "snptest: No space left: /x\n"),
        (ModuleNotFoundError("no", name="rich"), 3, "lacks the module rich"),
        (ModuleNotFoundError("no", name="harness.x"), 3, "internal error: ModuleNotFoundError"),
        (SystemExit(1), 3, ""),
        (SystemExit("words"), 3, "snptest: words"),
        (SystemExit(2), 2, ""),
        (SystemExit(0), 0, ""),
        (KeyboardInterrupt(), 130, ""),
        (UsageError("wrong", "right"), 2, "snptest: wrong\n  hint: right\n"),
        (BuildError("broken"), 3, "snptest: broken\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 3, "internal error: BrokenPipeError"),
    ],
    ids=repr,
)
def test_no_exception_is_exit_1(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr(command_line, "app", fail)
    monkeypatch.setattr(sys, "argv", ["snptest", "run"])
    assert command_line.main() == code
    err = capsys.readouterr().err
    assert said in err
    assert ("Traceback" in err) == ("internal error" in said)
    monkeypatch.setattr(sys, "argv", ["snptest", "bisect-step"])
    assert command_line.main() in ((0,) if code == 0 else (128, 130))


def test_a_broken_module_of_ours_is_exit_3(tmp_path: Path) -> None:
    """Before the command line stands, too; for git bisect it is no bad revision."""
    (tmp_path / "harness").mkdir()
    for path in (ROOT / "harness").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "harness" / "cli" / "main.py").write_text("def half(:\n")
    for word, code in (("kernels", 3), ("bisect-step", 128)):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "harness", word],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr.decode()
        assert b"internal error: SyntaxError" in done.stderr


def test_assertions_are_not_switched_off(place: Place) -> None:
    place.environment["PYTHONOPTIMIZE"] = "1"
    done = place.start("kernels")
    assert done.returncode == 2
    assert b"hint: unset PYTHONOPTIMIZE" in done.stderr


def test_variables_of_others_do_not_choose_tests(place: Place) -> None:
    place.environment |= {"PYTEST_ADDOPTS": "-k nothing_at_all", "PYTEST_PLUGINS": "no_such"}
    done = place.start(*RUN)
    assert done.returncode == 0, done.stdout.decode()
    assert b"pass" in done.stdout


# Terminals --------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[Callable[..., tuple[int, int]]]:
    """Start a command on a terminal of its own, in a session; its process and our end."""
    opened = []

    def start(words: Sequence[str], environment: dict[str, str]) -> tuple[int, int]:
        pid, master = os.forkpty()
        if pid == 0:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever we were started with
            os.execve(sys.executable, [sys.executable, "-P", "-m", "harness", *words], environment)
        opened.append(master)
        return pid, master

    yield start
    for master in opened:
        os.close(master)


def ended(pid: int, seconds: float = 120) -> int:
    """Wait for a child's end; return its status."""
    until = time.monotonic() + seconds
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        assert time.monotonic() < until, f"process {pid} has not ended within {seconds:g} s"
        time.sleep(0.05)
    return found[1]


def test_a_terminal_that_goes_away_leaves_a_run_that_says_so(
    place: Place, terminal: Callable[..., tuple[int, int]]
) -> None:
    pid, master = terminal(["run", "launch", "-n", "0"], place.environment)
    until = time.monotonic() + 300
    while not (found := list(place.folder.glob("results/*/results.jsonl"))) or (
        b'"event": "result"' not in found[0].read_bytes()
    ):
        assert time.monotonic() < until
        if select.select([master], [], [], 0.2)[0]:
            os.read(master, 65536)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, master)  # hang up: Linux sends SIGHUP; what is still written there is refused
    os.close(null)
    assert os.waitstatus_to_exitcode(ended(pid)) == 130
    finish = place.finish()
    assert finish["exit"] == 130
    assert finish["broken"] == ["interrupted: the results are not complete"]
    listed = json.loads(place.start("history", "list", "--json").stdout)
    assert [run["verdict"] for run in listed] == ["broken"]


@pytest.mark.parametrize(
    ("more", "coloured", "live"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, False, True),
        ({"TERM": "dumb"}, False, False),
    ],
    ids=["terminal", "no_color", "dumb"],
)
def test_colour_and_movement_are_for_terminals_that_can(
    place: Place,
    terminal: Callable[..., tuple[int, int]],
    more: dict[str, str],
    coloured: bool,
    live: bool,
) -> None:
    environment = {k: v for k, v in place.environment.items() if k not in ("NO_COLOR", "CI")}
    pid, master = terminal(RUN, environment | {"TERM": "xterm-256color"} | more)
    said = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while chunk := os.read(master, 65536):
            said += chunk
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said.decode()
    assert (b"\x1b[32m" in said) == coloured
    assert (b"\x1b[?25l" in said) == live


@pytest.mark.parametrize(
    "more",
    [
        {"FORCE_COLOR": "1", "CI": "true", "TERM": "xterm", "CLICOLOR_FORCE": "1"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"COLUMNS": "40"},
        {"PYTHONUNBUFFERED": "1"},
        {"PYTHONWARNINGS": "error"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_surroundings_change_no_answer(place: Place, more: dict[str, str]) -> None:
    place.environment |= more
    done = place.start(*RUN, "--ktap", "-")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"KTAP version 1\n1..1\n")
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr
    assert b" pass in " in done.stderr
    assert b"\\x" not in done.stderr


def test_what_an_encoding_lacks_is_simplified_or_escaped() -> None:
    assert "a·b…é\udcff".encode("ascii", streams.PLAIN) == rb"a.b...\xe9\udcff"
    assert "a·é".encode("latin-1", streams.PLAIN) == "a·é".encode("latin-1")


def test_a_pipe_that_does_not_block_loses_nothing() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    outlet = streams.Outlet(writing)
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        outlet.write(b"x" * 500_000)
        os._exit(outlet.error is not None)
    os.close(writing)
    size = 0
    while chunk := os.read(reading, 1 << 16):
        size += len(chunk)
    os.close(reading)
    assert os.waitpid(pid, 0)[1] == 0
    assert size == 500_000


def test_what_faults_are_the_machines_own() -> None:
    assert faults.code_of(OSError(errno.EDQUOT, "Disk quota exceeded", "/x")) == 3
