# SPDX-License-Identifier: GPL-2.0-only
"""The history with 10,000 runs of 500 tests: every question that is asked of it, in seconds.

Runs are put in one after the other, as a farm leaves them over a year: 20 kernels in turn, four
hosts, 30 flaky tests, 1% skipped, failures with a console.  A figure is the slowest of three, the
first of which has to read everything anew (the file itself is in the system's memory).
"""

from __future__ import annotations

import json
import random
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.history import judge, record, runs, schema, trend
from harness.history.store import History
from harness.report.html.overview import overview_pages
from harness.report.html.run import run_pages
from harness.report.outcome import Outcome, Result

RUNS = 10_000
TESTS = 500
SUITES = ("launch", "psc", "ap_creation", "guest_req", "gmem")
KERNELS = 20
HOSTS = 4
FLAKY = 30
BAR = 2.0
ROUNDS = 3
START = 1_760_000_000.0
EVERY = 3000.0
"""Seconds from one run to the next."""

_TEXT = {"details": "assert 5 == 0\n" * 40, "console": "[ 12.345678] kvm_amd: a line\n" * 60}

# A test is flaky by its number; who fails in a run, and what takes how long, is drawn by SQLite.
_RESULTS = f"""
INSERT INTO result SELECT :run, t.id - 1, t.id,
  CASE WHEN t.id % {TESTS // FLAKY} = 0 AND abs(random()) % 12 = 0 THEN 1
       WHEN abs(random()) % 3000 = 0 THEN 4
       WHEN t.id % 100 = 7 THEN 5 ELSE 0 END,
  1000 * t.id + abs(random()) % 50000, NULL
FROM test t
"""
_DAILY = """
INSERT INTO daily
  SELECT test, :day, sum(outcome = 0), sum(outcome IN (1, 4)), sum(outcome = 5), sum(us)
  FROM result WHERE run = :run GROUP BY test
ON CONFLICT (test, day) DO UPDATE SET good = good + excluded.good, bad = bad + excluded.bad,
  other = other + excluded.other, us = us + excluded.us
"""


def fill(history: History, count: int = RUNS) -> None:
    """Put runs into an empty history."""
    chance = random.Random(1)
    execute = history.db.execute
    packed = zlib.compress(json.dumps(_TEXT).encode())
    with history.writing():
        for number in range(KERNELS):
            execute(
                "INSERT INTO kernel (id, digest, name, release, base, tree, git_commit, series,"
                " config, compiler, build_id)"
                " VALUES (?, ?, 'nightly', ?, '', '', '', '[]', '[]', '', '')",
                (number + 1, number.to_bytes(32), f"6.{number}.0"),
            )
            for host in range(HOSTS):
                place = (number * HOSTS + host + 1, f"milan{host}", number + 1)
                execute("INSERT INTO setting VALUES (?, 'ssh', '', '', ?, '1.55', 'x', ?)", place)
        for number in range(TESTS):
            suite = SUITES[number % len(SUITES)]
            name = f"suites/{suite}/test_{suite}.py::test_number_{number}[ssh]"
            execute(
                "INSERT INTO test VALUES (?, ?, ?, '', 'ssh', 'It holds.', '[14]', '[\"area\"]')",
                (number + 1, name, suite),
            )
    counts = ", ".join(
        f"n_{each} = (SELECT count(*) FROM result WHERE run = :run AND outcome = {number})"
        for number, each in enumerate(schema.OUTCOMES)
    )
    for first in range(0, count, 50):
        with history.writing():
            for run in range(first + 1, min(first + 50, count) + 1):
                began = START + run * EVERY
                kernel = run * KERNELS // count if run < count else KERNELS - 1
                setting = kernel * HOSTS + chance.randrange(HOSTS) + 1
                execute(
                    "INSERT INTO run (id, key, state, started, seconds, exit, setting, label, seed,"
                    " command, file) VALUES (?, ?, 1, ?, 400, 1, ?, 'nightly', 0, '[]', '')",
                    (run, f"{run:032x}", began, setting),
                )
                execute(_RESULTS, {"run": run})
                execute(_DAILY, {"run": run, "day": int(began // 86400)})
                execute(f"UPDATE run SET {counts} WHERE id = :run", {"run": run})
                execute(
                    "INSERT INTO evidence (run, nth, texts) SELECT run, nth, ? FROM result"
                    " WHERE run = ? AND outcome IN (1, 4)",
                    (packed, run),
                )
                if chance.random() < 0.1:  # a good night, now and then
                    execute("UPDATE run SET exit = 0 WHERE id = ?", (run,))


def new_run(folder: Path) -> Path:
    """Write a run's folder, to be taken in."""
    results = [
        Result(
            f"suites/psc/test_psc.py::test_{n}[ssh]", "psc", "", Outcome.PASS, 0.5, backend="ssh"
        )
        for n in range(TESTS)
    ]
    head = {"event": "start", "backend": "ssh", "host": "milan0", "run": folder.name * 32}
    lines = [head, *({"event": "result", **each.as_dict()} for each in results)]
    lines.append({"event": "finish", "exit": 0, "seconds": 1.0, "broken": []})
    folder.mkdir()
    (folder / "results.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    return folder


def questions(path: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name; each opens the history itself, as a command does."""

    def asked(question: Callable[[History], object]) -> Callable[[], object]:
        def ask() -> object:
            with History.open(path) as history:
                record.catch_up(history)
                return question(history)

        return ask

    new = iter("abc")
    return {
        "overview and its lists": asked(lambda h: list(overview_pages(h, set()))),
        "pages of a run": asked(lambda h: list(run_pages(h, runs.find(h, "last"), set()))),
        "a run against those before it": asked(lambda h: judge.judge(h, runs.find(h, "last-5"))),
        "list of 100 runs": asked(lambda h: runs.runs(h, 100)),
        "all 10,000 results of a test": asked(lambda h: trend.points(h, TESTS // 2)),
        "flake rates over 200 runs": asked(
            lambda h: trend.trends(h, [run.id for run in runs.runs(h, 200)])
        ),
        "totals of each test ever": asked(trend.totals),
        "a run of 500 results taken in": asked(
            lambda h: record.take(h, new_run(folder / next(new)))
        ),
    }


def run() -> list[dict[str, Any]]:
    """Measure; the slowest of each question counts, and the slowest question against the bar."""
    with tempfile.TemporaryDirectory(prefix="snptest-history-") as name:
        folder = Path(name)
        path = folder / "history.db"
        with History.open(path) as history:
            began = time.perf_counter()
            fill(history)
            filled = time.perf_counter() - began
            stored = history.one("SELECT count(*) FROM result")[0]
        if stored != RUNS * TESTS:
            raise RuntimeError(f"{stored} results are stored, not {RUNS * TESTS}")
        detail = f"{stored:,} results, {path.stat().st_size / 1e6:.0f} MB, in {filled:.0f} s"
        figures = []
        for title, question in questions(path, folder).items():
            times = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                question()
                times.append(time.perf_counter() - began)
            figures.append(
                {
                    "name": f"history: {title}",
                    "ratio": round(max(times), 3),
                    "bar": BAR,
                    "unit": "s",
                    "detail": detail,
                }
            )
    return figures


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
