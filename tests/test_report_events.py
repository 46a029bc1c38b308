# SPDX-License-Identifier: GPL-2.0-only
"""The one reader of results: whole lines, half ones, hostile ones, and who reads through it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import suiterun
from harness.compare import stored
from harness.errors import UsageError
from harness.report.events import LONGEST_LINE, Lines, decode, result_of
from harness.report.facts import Facts, Subject
from harness.report.jsonl import JsonLines
from harness.report.outcome import Outcome, Result
from harness.report.pipe import ResultPipe
from harness.runner import Run

GOOD: dict[str, Any] = {"id": "suites/psc/t.py::x", "suite": "psc", "outcome": "pass", "seconds": 1}
FULL = Result(
    "suites/psc/t.py::x[v12-1]",
    "psc",
    "v12",
    Outcome.FAIL,
    1.5,
    "It holds.",
    "EINVAL",
    "trace\nback",
    "[ 1.0] oops",
    "printed",
    (3, 4),
    ("psc", "rmp"),
    "emulator",
)


def line(event: str = "result", **fields: Any) -> bytes:
    return json.dumps({"event": event, **fields}).encode() + b"\n"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    out = JsonLines(tmp_path / "results.jsonl")
    out.write("start", {"backend": "emulator"})
    out.result(FULL)
    out.finish({"exit": 1, "broken": ["a\x1b[31m", 7]})
    read = [each.event for each in Lines().feed((tmp_path / "results.jsonl").read_bytes())]
    assert [each and each.kind for each in read] == ["start", "result", "finish"]
    assert read[1] is not None
    assert read[1].result == FULL
    assert read[2] is not None
    assert read[2].broken == ["a", "7"]


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 16])
def test_lines_come_whole_however_they_are_cut(size: int) -> None:
    data = b"".join((line(**GOOD), b"nonsense\n", line("finish"), line(**GOOD)[:20]))
    lines = Lines()
    found = [each for at in range(0, len(data), size) for each in lines.feed(data[at : at + size])]
    assert [(each.number, each.event is not None) for each in found] == [
        (1, True),
        (2, False),
        (3, True),
    ]
    assert (lines.cut, lines.unreadable) == (True, 1)


def test_a_line_without_an_end_is_told_once_and_costs_no_memory() -> None:
    lines = Lines()
    chunks = [b"x" * LONGEST_LINE] * 4 + [b"\n" + line(**GOOD)]
    found = [each for chunk in chunks for each in lines.feed(chunk)]
    assert [each.event is not None for each in found] == [False, True]
    assert "longer than" in found[0].wrong
    assert not lines.cut


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"id": None},
        {"id": 5},
        {"reason": ["x"]},
        {"console": {"a": 1}},
        {"outcome": "maybe"},
        {"outcome": ["pass"]},
        {"seconds": -1},
        {"seconds": True},
        {"seconds": "1"},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"patches": "12"},
        {"patches": [float("inf")]},
        {"patches": ["1"]},
        {"patches": [True]},
        {"areas": {"a": 1}},
        {"areas": [None]},
        {"areas": ["a"] * 100_000},
    ],
)
def test_what_is_no_result_is_none(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Error: "):
        decode(line(**GOOD | change))


def test_text_is_safe_whoever_wrote_it() -> None:
    evil = "a\x1b[31m\x00\u202eb\nc"
    texts = ("id", "reason", "description", "suite", "backend", "details", "console", "output")
    found = result_of(GOOD | dict.fromkeys(texts, evil) | {"areas": [evil]})
    for text in (*(getattr(found, name) for name in texts), *found.areas):
        assert not {"\x1b", "\x00", "\u202e"} & {*text}
    assert "\n" not in found.reason
    assert decode(line("trouble", reason=evil)).text("reason") == "a\\x00\\u202eb c"


def test_what_called_an_interface_a_revision_is_read() -> None:
    old = GOOD | {"revision": "v12"}
    assert result_of(old).interface == "v12"
    assert result_of(old | {"interface": "merged"}).interface == "merged"


def test_counts_are_numbers_of_things() -> None:
    event = decode(line("collected", count=3, more=-1, much=2**40, text="3", flag=True))
    counts = [event.count(name) for name in ("count", "more", "much", "text", "flag", "none")]
    assert counts == [3, 0, 0, 0, 0, 0]


# Who reads ------------------------------------------------------------------------------


def test_a_stored_run_says_which_line_is_none(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(line("start") + line(**GOOD | {"patches": [1e999]}))
    with pytest.raises(UsageError, match=r"r.jsonl:2 is no line of results: TypeError: patches"):
        stored.load(path)


FAKE = """
    import sys
    path = next(word.partition("=")[2] or sys.argv[sys.argv.index(word) + 1]
                for word in sys.argv if word.startswith(("--results", "--json")))
    with open(path, "wb") as out:
        out.write({data!r})
"""


def test_runs_say_that_lines_of_theirs_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither ends with a traceback, and neither takes the rest for the whole truth."""
    data = line("start") + line(**GOOD) + b"{nonsense\n" + line("finish")
    program = tmp_path / "python"
    code = "\n".join(each.removeprefix("    ") for each in FAKE.format(data=data).splitlines())
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr("harness.leash.__file__", str(program))
    monkeypatch.setattr(sys, "executable", str(program))
    run = Run((), tmp_path / "run")
    run.execute(lambda event: None)
    done = suiterun.run(["psc"])
    for each in (run, done):
        assert [one.id for one in each.results] == [GOOD["id"]]
        assert each.broken == ["1 lines of its results cannot be read"]


def test_a_pipe_ends_when_nobody_writes_any_more() -> None:
    with ResultPipe() as pipe:
        assert not pipe.wait(0)
        os.write(pipe.fd, line(**GOOD) + b"half")
        pipe.started()
        events = []
        while not pipe.ended:
            assert pipe.wait(5)
            events += pipe.events()
        assert [event.kind for event in events] == ["result"]
        assert pipe.lines.cut


# From worker to controller ----------------------------------------------------------------


def test_facts_travel_as_plain_types_and_come_back() -> None:
    facts = Facts(
        Subject("psc", "v12", "It holds.", (3,), ("psc",)),
        Outcome.CRASH,
        "the kernel died",
        "BUG: x",
        "[ 1.0] BUG: x",
        "no boot",
        ["a disk is full"],
        [{"release": "6.12"}],
        [FULL],
    )
    sent = facts.to_dict()
    assert type(sent["verdict"]) is type(sent["boots"][0]["outcome"]) is str
    assert Facts.from_dict(json.loads(json.dumps(sent))) == facts
    assert Facts.from_dict(Facts().to_dict()) == Facts()


@pytest.mark.parametrize(
    "plain", [{"verdict": "maybe"}, {"nonsense": 1}, {"boots": [{}]}, {"test": {"suite": "psc"}}]
)
def test_what_are_no_facts_is_refused(plain: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Facts.from_dict(plain)
