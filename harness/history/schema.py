# SPDX-License-Identifier: GPL-2.0-only
"""The tables, by version; PRAGMA user_version says which one a file has.

A result takes some 20 bytes, twice: clustered by run, and in an index by test that covers what
trends need.  What only some results have (texts) lies apart, compressed.  Numbers stand for
names, and each run carries its own counts, so that lists of runs read no results.
"""

from __future__ import annotations

from harness.report.outcome import Outcome

APPLICATION = 0x534E5054
"""PRAGMA application_id: 'SNPT'."""

OUTCOMES = (
    Outcome.PASS,
    Outcome.FAIL,
    Outcome.XFAIL,
    Outcome.ERROR,
    Outcome.CRASH,
    Outcome.SKIP,
)
"""A stored outcome is the index here: never reorder, only append."""
BAD = tuple(number for number, each in enumerate(OUTCOMES) if each.bad)
COUNTS = tuple(f"n_{each}" for each in OUTCOMES)
"""Columns of a run: results by outcome."""

RUNNING, FINISHED, CUT = range(3)
"""States of a run; one that was cut ended without its last line."""
CUT_SHORT = "it was cut short"

_FIRST = f"""
CREATE TABLE kernel (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,      -- of the rest
    name TEXT NOT NULL,               -- as --kernel has it
    release TEXT NOT NULL,            -- uname -r
    base TEXT NOT NULL,
    tree TEXT NOT NULL,               -- git hash of the sources' content
    git_commit TEXT NOT NULL,
    series TEXT NOT NULL,             -- JSON: subjects of the patches
    config TEXT NOT NULL,             -- JSON: fragments
    compiler TEXT NOT NULL,
    build_id TEXT NOT NULL
);
-- Runs of one setting are expected to agree: where they do not, a test is flaky.
CREATE TABLE setting (
    id INTEGER PRIMARY KEY,
    backend TEXT NOT NULL,
    revision TEXT NOT NULL,
    machine TEXT NOT NULL,
    host TEXT NOT NULL,
    firmware TEXT NOT NULL,
    harness TEXT NOT NULL,            -- git describe of snptest itself
    kernel INTEGER NOT NULL REFERENCES kernel,
    UNIQUE (backend, revision, machine, host, firmware, harness, kernel)
);
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,         -- of its results.jsonl, wherever that lies
    state INTEGER NOT NULL,
    started REAL NOT NULL,            -- seconds since 1970
    seconds REAL,
    exit INTEGER,
    setting INTEGER NOT NULL REFERENCES setting,
    label TEXT NOT NULL,
    seed INTEGER NOT NULL,
    workers INTEGER,
    command TEXT NOT NULL,            -- JSON: words
    broken TEXT NOT NULL DEFAULT '[]',  -- JSON: why the results are not the whole truth
    file TEXT NOT NULL,               -- its results.jsonl
    lines INTEGER NOT NULL DEFAULT 0, -- of that file that were taken in
    pruned INTEGER NOT NULL DEFAULT 0,
    {", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in COUNTS)}
);
CREATE INDEX run_started ON run (started);
CREATE INDEX run_setting ON run (setting, started);
CREATE INDEX run_running ON run (id) WHERE state = {RUNNING};
CREATE TABLE test (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,        -- its id, as reports print it
    suite TEXT NOT NULL,
    revision TEXT NOT NULL,
    backend TEXT NOT NULL,
    description TEXT NOT NULL,
    patches TEXT NOT NULL,            -- JSON: numbers
    areas TEXT NOT NULL               -- JSON: names
);
CREATE TABLE reason (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE result (
    run INTEGER NOT NULL,
    nth INTEGER NOT NULL,             -- in the order in which the run's tests ended
    test INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    us INTEGER NOT NULL,              -- microseconds
    reason INTEGER,
    PRIMARY KEY (run, nth)
) WITHOUT ROWID;
CREATE INDEX result_test ON result (test, run, outcome, us);
-- Details, console and output, as compressed JSON.
CREATE TABLE evidence (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    nth INTEGER NOT NULL,
    texts BLOB NOT NULL,
    UNIQUE (run, nth)
);
-- What is kept of results for good: a test's runs by day (UTC, days since 1970).
CREATE TABLE daily (
    test INTEGER NOT NULL,
    day INTEGER NOT NULL,
    good INTEGER NOT NULL,
    bad INTEGER NOT NULL,
    other INTEGER NOT NULL,           -- skipped, or failed as known
    us INTEGER NOT NULL,              -- of the good ones, together
    PRIMARY KEY (test, day)
) WITHOUT ROWID;
"""

# What others can fetch: the commit of --base, where it lies, and KCIDB's hash of the patches.
_ORIGIN = "".join(
    f"ALTER TABLE kernel ADD COLUMN {name} TEXT NOT NULL DEFAULT '';\n"
    for name in ("base_commit", "base_url", "patchset")
)

# A kernel developer reads a revision as git's.
_INTERFACES = "".join(
    f"ALTER TABLE {table} RENAME COLUMN revision TO interface;\n" for table in ("setting", "test")
)

MIGRATIONS = (_FIRST, _ORIGIN, _INTERFACES)
"""Scripts; the one at index N makes version N + 1 of version N."""
