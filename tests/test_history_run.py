# SPDX-License-Identifier: GPL-2.0-only
"""`snptest run` and its history: recorded as it goes, killed, locked out, left alone."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from harness.history import record, runs
from harness.history.store import History
from harness.report.outcome import Outcome
from tests.mutants.mutant import ROOT

DEADLINE = 120.0
PROGRAM = """
    import sys
    from pathlib import Path
    from harness import runner
    from harness.cli import main, run
    tree = Path(sys.argv.pop(1))
    runner.ROOT = run.ROOT = tree
    run.SUITES = tree / "suites"
    sys.exit(main.main())
"""
SUITE = """
    import time
    import pytest
    @pytest.mark.parametrize("number", range(20))
    def test_it(number, interface):
        "It holds."
        assert number != 3, "three"
        if number == 12:
            time.sleep(PAUSE)
"""


class Tree:
    """Suites of our own, and `snptest run` on them."""

    def __init__(self, folder: Path, pause: float = 0.0) -> None:
        self.folder = folder
        suite = folder / "suites" / "psc"
        suite.mkdir(parents=True)
        text = textwrap.dedent(SUITE).replace("PAUSE", str(pause))
        (suite / "test_psc.py").write_text(text)
        (folder / "conftest.py").write_text('pytest_plugins = ("harness.plugin",)\n')
        (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
        self.db = folder / "results" / "history.db"

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = dict(os.environ)
        del environment["SNPTEST_HISTORY"]
        environment |= {"SNPTEST_RESULTS": str(self.folder / "results"), "PYTHONPATH": str(ROOT)}
        program = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(self.folder)]
        return subprocess.Popen(
            [*program, "run", "psc", "--interface", "v12", "-n", "1", *words],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        out, _ = process.communicate(timeout=DEADLINE)
        return process.returncode, out


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_run_is_in_the_history(tree: Tree) -> None:
    code, out = tree.run("--label", "mine", "--seed", "5")
    assert code == 1, out
    with History.open(tree.db) as history:
        (run,) = runs.runs(history)
        assert (run.verdict, run.label, run.seed, run.backend) == ("bad", "mine", 5, "emulator")
        assert run.counts == {Outcome.PASS: 19, Outcome.FAIL: 1}
        assert run.command[:2] == ("run", "psc")
        assert abs(run.started - time.time()) < DEADLINE
        (bad,) = (each for each in runs.results(history, run) if each.outcome.bad)
        assert "three" in bad.reason
        assert record.catch_up(history) == []
        assert runs.find(history, str(run.file.parent)).id == run.id


def test_a_run_may_be_left_out(tree: Tree) -> None:
    code, out = tree.run("--no-history", "-k", "it")
    assert code == 1, out
    assert not tree.db.exists()


def test_what_matches_nothing_is_no_run(tree: Tree) -> None:
    assert tree.run("-k", "no_such_test")[0] == 2
    assert not tree.db.exists()


def test_a_run_that_is_killed_is_kept_as_far_as_it_went(tmp_path: Path) -> None:
    tree = Tree(tmp_path, pause=60.0)
    process = tree.start()
    until = time.monotonic() + DEADLINE
    try:
        while True:
            assert time.monotonic() < until, "twelve results did not come"
            found = [*tmp_path.glob("results/*/results.jsonl")]
            if found and found[0].read_bytes().count(b'"event": "result"') >= 12:
                break
            time.sleep(0.1)
        with History.open(tree.db) as history:
            assert record.catch_up(history) == []  # it lives
            (run,) = runs.runs(history)
            assert run.verdict == "running"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()
    with History.open(tree.db) as history:
        assert record.catch_up(history) == [run.id]
        (run,) = runs.runs(history)
        assert run.verdict == "cut"
        assert run.counts == {Outcome.PASS: 11, Outcome.FAIL: 1}


def test_a_run_whose_history_is_locked_or_damaged_says_so_and_ends_as_ever(tree: Tree) -> None:
    History.open(tree.db).close()
    other = sqlite3.connect(tree.db, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    code, out = tree.run()
    assert code == 1, out
    assert "19 pass, 1 fail" in out
    assert "not in the history: " in " ".join(out.split())
    assert "has been locked by another process for 10 s" in " ".join(out.split())
    other.close()
    tree.db.write_bytes(b"garbage" * 1000)
    code, out = tree.run()
    assert code == 1, out
    assert "history.db is damaged" in " ".join(out.split())
    tree.db.unlink()
    with History.open(tree.db) as history:
        done = list(record.import_all(history, [tree.db.parent]))
        assert [each.problem for each in done] == ["", ""]
        assert [run.verdict for run in runs.runs(history)] == ["bad", "bad"]
