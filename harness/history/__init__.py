# SPDX-License-Identifier: GPL-2.0-only
"""Runs over time: every result in one SQLite file, and the questions that are asked of it.

    schema.py    the tables, and how an older file becomes a newer one
    store.py     the file: where it is, opened, locked, damaged
    stream.py    a run's results.jsonl, read line by line
    record.py    from there into the tables: while a run goes on, after one that was cut, by import
    runs.py      stored runs: list, find, read back; the last good one
    trend.py     one test over time; flake rates, the matrix, durations of many
    judge.py     a run against an earlier one: new failures, known, flaky, fixed
    prune.py     what is old goes

A run's folder is the truth, for its results.jsonl is written line by line as tests end.  The
tables follow it: each transaction takes the lines since the last one and notes how many lines
that makes.  Killed at any moment, tables and note agree, and the next to open the history takes
the rest of a run whose writer is gone.
"""
