# SPDX-License-Identifier: GPL-2.0-only
"""Failures of the suites are one line: operation, what came, what was wanted; the same everywhere.

The last test breaks the emulator in many ways at once and reads what the suites say of it.
"""

from __future__ import annotations

import ast
import errno
import html
import io
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.compare import diff, render
from harness.compare.diff import Side
from harness.history import record, runs
from harness.history.store import History
from harness.inspector import NO_PAGE, RmpSize, RmpState
from harness.report import junit, kcidb, ktap, phrases
from harness.report.events import result_of
from harness.report.html import site
from harness.report.live import PlainDisplay
from harness.report.outcome import FAILURE_WIDTH, Outcome, Result
from harness.report.phrases import Side as Value
from harness.splats import known
from harness.uapi.errors import SevFwError
from harness.vm.exits import InterruptedExit, MemoryFaultExit, RunError
from harness.vm.results import OK, CallResult, Memory, Number, failed
from tests import history_runs
from tests.mutants.mutant import ROOT, all_mutants

LINE = "VMGEXIT 0x80000010 (PSC) SW_EXITINFO2: GHCB_ERR_INVALID_INPUT (5), want none"
WIDEST = f"{LINE} (the list has a hole)".ljust(FAILURE_WIDTH, "!")
RMP = RmpState(True, 3, 0x401000, False, RmpSize.SIZE_4K, operation="RMP of GPA 0x401000")


@pytest.mark.parametrize(
    ("op", "left", "right", "line"),
    [
        (
            "==",
            CallResult(errno.EINVAL, 0, "KVM_SEV_SNP_LAUNCH_START"),
            OK,
            "KVM_SEV_SNP_LAUNCH_START: EINVAL, want success",
        ),
        (
            "==",
            CallResult(errno.EIO, SevFwError.INVALID_PARAM, "KVM_SEV_SNP_LAUNCH_UPDATE"),
            OK,
            "KVM_SEV_SNP_LAUNCH_UPDATE: EIO, firmware INVALID_PARAM; want success",
        ),
        (
            "!=",
            CallResult(operation="KVM_SEV_INIT2"),
            OK,
            "KVM_SEV_INIT2: success, want anything but success",
        ),
        (
            "in",
            CallResult(errno.EIO, 0, "KVM_SEV_INIT2"),
            (OK, failed(errno.EBUSY)),
            "KVM_SEV_INIT2: EIO, want one of success, EBUSY",
        ),
        (
            "==",
            RMP,
            replace(RMP, assigned=False),
            "RMP of GPA 0x401000: assigned, ASID 3, 4K, not validated; want shared",
        ),
        (
            "==",
            RMP,
            replace(RMP, validated=True, size=RmpSize.SIZE_2M),
            "RMP of GPA 0x401000: assigned, ASID 3, 4K, not validated; want 2M, validated",
        ),
        (
            "==",
            RMP,
            replace(RMP, gpa=0x5000),
            "RMP of GPA 0x401000: assigned, ASID 3, 4K, not validated, GPA 0x401000; "
            "want GPA 0x5000",
        ),
        (
            "==",
            RMP,
            NO_PAGE,
            "RMP of GPA 0x401000: assigned, ASID 3, 4K, not validated; want no page",
        ),
        ("==", RunError(errno.EFAULT), InterruptedExit(), "KVM_RUN: EFAULT, want EINTR"),
        (
            "==",
            MemoryFaultExit(0x400000, 0x1000, True, errno.EFAULT),
            MemoryFaultExit(0x400000, 0x1000, False, errno.EFAULT),
            "KVM_RUN KVM_EXIT_MEMORY_FAULT private: true, want false",
        ),
        (
            "==",
            Memory(b"\0" * 16 + b"\xa5" * 16, "private memory at GPA 0x1000"),
            bytes(32),
            "private memory at GPA 0x1000 at offset 0x10: a5 a5 a5 a5, want zeros",
        ),
        ("==", Memory(b"12", "memory"), b"1", "memory: 2 bytes, want 1"),
        (
            "==",
            Number(7, "LOAD of GPA 0x1000"),
            1 << 40,
            "LOAD of GPA 0x1000: 7, want 0x10000000000",
        ),
        ("==", {"vms": 1, "asids": 2}, {"vms": 1, "asids": 0}, "look() asids: 2, want 0"),
        ("==", [1, 2, 3], [1, 5, 3], "look() [1]: 2, want 5"),
        ("==", [1], [1, 2], "look(): (1), want (1, 2)"),
        ("==", (1, 2), [1, 2], "look(): (1, 2); want (1, 2)"),
        ("==", {1, 2}, {2, 3}, "look(): (1), want (3)"),
        ("==", "", "N", "look(): nothing, want N"),
        ("==", None, 5, "look(): none, want 5"),
        ("is not", None, None, "look(): none, want one"),
        (">=", 3, 4, "look(): 3, want at least 4"),
        ("in", b"IM", b"other", "look(): no 49 4d, want it there"),
        ("not in", "Linux", "a Linux", "look(): Linux is there, want it absent"),
    ],
)
def test_comparisons_in_words(op: str, left: object, right: object, line: str) -> None:
    """Each type says what came and what was wanted in the field's words."""
    subject = phrases.operation(left) or phrases.operation(right) or "look()"
    assert phrases.comparison(subject, op, Value(left), Value(right)) == line


SUITE = """
import errno

import pytest

from harness.uapi import kvm as uapi
from harness.vm.errors import GuestError, SevError
from harness.vm.exits import MemoryFaultExit, RunError
from harness.vm.results import OK, CallResult, Number
from suites.made.helper import is_well

PAGE_SIZE = 4096
FLAGS = 3


class Thing:
    ok = False
    size = 0x2000
    errno = 22
    name = "thing"

    def __repr__(self):
        return "PSC of 3 entries: stopped at entry 1"

    def ioctl(self, fd, request):
        return self

    def check(self):
        return self

    def look(self, gpa):
        return gpa


def test_call(): assert CallResult(22, 0, "KVM_SEV_INIT2") == OK
def test_remark():
    for bit in (5,):
        assert CallResult(0, 0, "KVM_SEV_INIT2") == CallResult(22), f"flag {bit}"
def test_own_line(): assert 1 == 2, "disk: 1 block, want 2"
def test_remark_alone(): assert not [1], "something was asked"
def test_errno():
    result = Thing()
    assert result.errno == errno.ENOTTY
def test_ioctl():
    thing = Thing()
    result = thing.ioctl(3, uapi.KVM_SET_MEMORY_ATTRIBUTES)
    assert result.errno == errno.ENOTTY
def test_ioctl_by_number():
    for request in (uapi.KVM_GET_REGS,):
        assert Thing().ioctl(3, request).errno == errno.ENOTTY
def test_constant(): assert Thing().size == PAGE_SIZE
def test_source():
    thing, gpa = Thing(), 0x400000
    assert thing.check().look(gpa) == FLAGS
def test_tuple():
    thing = Thing()
    assert (thing.name, thing.size) == ("thing", PAGE_SIZE)
def test_property(): assert Thing().ok
def test_not_property():
    thing = Thing()
    thing.ok = True
    assert not thing.ok
def test_truth(): assert bool(0)
def test_isinstance():
    stopped = RunError(14)
    assert isinstance(stopped, MemoryFaultExit)
def test_raises():
    with pytest.raises(SevError):
        Thing().look(0x400000)
def test_helper(): is_well(3)
def test_sev_error(): raise SevError("KVM_SEV_INIT2", 5, 22)
def test_guest_error(): raise GuestError("LOAD of private GPA 0x1000: #GP; want no exception")
def test_long(): assert "a " * 300 == "b " * 300
def test_no_words():
    class Odd:
        def __str__(self): raise ValueError("no words")
    assert Odd() == 1
def test_caught():
    try:
        assert 1 == 2
    except AssertionError:
        pass
    assert [] , "no results, want one"
"""
HELPER = "def is_well(number):\n    assert number == 4\n"
LINES = {
    "test_call": "KVM_SEV_INIT2: EINVAL, want success",
    "test_remark": "KVM_SEV_INIT2: success, want EINVAL (flag 5)",
    "test_own_line": "disk: 1 block, want 2",
    "test_remark_alone": "[1]: [1], want none (something was asked)",
    "test_errno": "Thing().errno: EINVAL, want ENOTTY",
    "test_ioctl": "KVM_SET_MEMORY_ATTRIBUTES: EINVAL, want ENOTTY",
    "test_ioctl_by_number": "KVM_GET_REGS: EINVAL, want ENOTTY",
    "test_constant": "Thing().size: 0x2000, want PAGE_SIZE (0x1000)",
    "test_source": "thing.look(0x400000): 0x400000, want FLAGS (3)",
    "test_tuple": "Thing().size: 0x2000, want PAGE_SIZE (0x1000)",
    "test_property": "PSC of 3 entries: stopped at entry 1, want success",
    "test_not_property": "PSC of 3 entries: stopped at entry 1, want an error",
    "test_truth": "bool(0): false, want true",
    "test_isinstance": "KVM_RUN: EFAULT, want KVM_EXIT_MEMORY_FAULT",
    "test_raises": "Thing().look(0x400000): success, want an error",
    "test_helper": "number: 3, want 4",
    "test_sev_error": "KVM_SEV_INIT2: EIO, firmware INVALID_PARAM; want success",
    "test_guest_error": "LOAD of private GPA 0x1000: #GP; want no exception",
    "test_no_words": "assertion failed, its line could not be made: ValueError: no words",
    "test_caught": "no results, want one",
}


def run_suite(folder: Path, *tests: str) -> dict[str, Result]:
    """Run tests with pytest; return the results that are no passes, by the test's name."""
    file = folder / "results.jsonl"
    words = ["-q", "-p", "no:cacheprovider", "--backend", "emulator", "--results", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *tests],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    records = map(json.loads, file.read_text().splitlines())
    results = [result_of(record) for record in records if record["event"] == "result"]
    return {each.id.partition("::")[2]: each for each in results if each.outcome.bad}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree that runs the suites."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("harness", "suites", "guests", "kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def failures(tree: Path) -> dict[str, Result]:
    """Results of a suite that fails in every way."""
    made = tree / "suites" / "made"
    made.mkdir(exist_ok=True)
    (made / "__init__.py").touch()
    (made / "test_made.py").write_text(SUITE)
    (made / "helper.py").write_text(HELPER)
    return run_suite(tree, "suites/made")


def test_every_kind_of_assert_has_its_line(failures: dict[str, Result]) -> None:
    """An assert that says nothing itself is told by its values and its source."""
    assert {name: failures[name].reason for name in LINES} == LINES
    assert set(failures) == {*LINES, "test_long"}


def test_a_line_has_at_most_100_columns(failures: dict[str, Result]) -> None:
    """What does not fit is cut; pytest's own explanation stays in the details."""
    assert all(len(each.reason) <= FAILURE_WIDTH for each in failures.values())
    assert ", want b b b" in failures["test_long"].reason
    for name, each in failures.items():
        if not name.endswith("_error") and name != "test_raises":
            assert "assert " in each.details, name
            assert "E   " in each.details, name


def test_the_line_begins_what_pytest_prints(failures: dict[str, Result]) -> None:
    """Plain pytest shows the line first, then its own explanation."""
    lines = failures["test_call"].details.splitlines()
    said = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")]
    assert said[0].removeprefix("AssertionError: ") == LINES["test_call"]


def outputs(result: Result, folder: Path) -> Iterator[tuple[str, str]]:
    """Each output that tells of a result: its name and its text."""
    stream = io.StringIO()
    shown = PlainDisplay(Console(file=stream, width=80, markup=False))
    shown.collected(1)
    shown.result(result)
    yield "terminal", stream.getvalue()
    failure = next(ET.fromstring(junit.render([result], {})).iter("failure"))
    yield "JUnit", failure.attrib["message"]
    yield "KTAP", ktap.render([result])
    passed = replace(result, outcome=Outcome.PASS, reason="", details="")
    a, b = Side("a", results=[passed]), Side("b", results=[result])
    yield "mail", render.mail(diff.compare(a, b), a, b, {})
    stored = history_runs.write(folder / "run", [result])
    yield "JSON", (stored / "results.jsonl").read_text()
    with History.open(folder / "h.db") as history:
        assert all(not done.problem for done in record.import_all(history, [stored]))
        [run] = runs.runs(history)
        [kept] = runs.results(history, run)
        yield "history", kept.reason
        yield "KCIDB", kcidb.report(run, [kept])["tests"][0]["log_excerpt"]
        site.write(history, [run], folder / "out")
        pages = (folder / "out").glob("*.html")
        yield "HTML", html.unescape("".join(page.read_text() for page in pages))


def test_the_same_line_is_in_every_output(failures: dict[str, Result], tmp_path: Path) -> None:
    """Terminal, JUnit, KTAP, KCIDB, HTML, the history and compare's mail have the line as it is."""
    made = replace(failures["test_call"], suite="psc", reason=WIDEST, details="")
    assert len(WIDEST) == FAILURE_WIDTH
    told = dict(outputs(made, tmp_path))
    assert len(told) == 8
    for name, text in told.items():
        assert any(WIDEST in line for line in text.splitlines()), f"{name}: {text}"


def test_no_chain_of_comparisons_in_the_suites() -> None:
    """`a == b == c` does not say which of the two is false: two asserts do."""
    for file in sorted((ROOT / "suites").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
                assert len(node.test.ops) == 1 or node.msg, f"{file}:{node.lineno}"


def test_known_issues_match_what_they_wait_for() -> None:
    """The text that a known issue's `fails` looks for is one that a suite or the kernel says."""
    issues = [each for each in known.load(known.FILE).issues if each.fails]
    asserted = "".join(file.read_text() for file in (ROOT / "suites").rglob("*.py"))
    kernels = {"Completion-Wait loop timed out", "RMPUPDATE failed for PFN"}
    assert {each.fails.pattern for each in issues if each.fails} - kernels
    for each in issues:
        assert each.fails is not None
        assert each.fails.pattern in kernels or each.fails.search(asserted), each.id


MUTANTS = (
    "events: WRMSR without a value",
    "events: jump table is forgotten",
    "psc: misaligned 2M accepted",
    "psc: addresses of the MSR protocol are short",
    "gmem: truncation",
    "gmem: the host maps it",
    "gmem: slots with guest_memfd can move",
    "launch: corrected CPUID page not written back",
    "launch: no pre-fault after the launch",
    "launch: host data is lost",
    "launch: policy looked at as 32 bits",
    "guest_req: configuration is not sent",
    "guest_req: masked key still signs",
    "guest_req: any header version",
)
"""Mutants that do not hide each other."""
READABLE = re.compile(r"[^:]+: .*(want .+|…)")


@pytest.mark.deadline(600)
def test_broken_emulators_are_told_in_lines(tree: Path) -> None:
    """Mutants of the emulator, many at once: each failure is one line with what was wanted."""
    tests: set[str] = set()
    for mutant in all_mutants():
        if mutant.name in MUTANTS:
            file = tree / mutant.file
            text = file.read_text()
            assert text.count(mutant.old) == 1, mutant.name
            file.write_text(text.replace(mutant.old, mutant.new))
            tests |= set(mutant.tests)
    bad = run_suite(tree, "--interface", "merged", "--deadline", "60", *sorted(tests))
    assert {each.suite for each in bad.values()} == {"launch", "psc", "gmem", "guest_req"}
    for name, each in bad.items():
        assert len(each.reason) <= FAILURE_WIDTH, (name, each.reason)
        assert not each.reason.startswith("assert"), (name, each.reason)
        assert READABLE.fullmatch(each.reason), (name, each.reason)
