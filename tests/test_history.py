# SPDX-License-Identifier: GPL-2.0-only
"""The history: what is recorded of a run, whatever happens to it, and to the file."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.history import record, runs, schema, store
from harness.history.store import History, Locked
from harness.history.take import Taker
from harness.report.outcome import Outcome
from tests.history_runs import HOSTILE, START, result, write
from tests.mutants.mutant import ROOT


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History.open(tmp_path / "h.db") as opened:
        yield opened


def sums(history: History) -> list[tuple[int, ...]]:
    return history.all("SELECT sum(good), sum(bad), sum(other) FROM daily")


# What is stored ---------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was(tmp_path: Path, history: History) -> None:
    given = [
        result("good", seconds=0.123456),
        result("bad", "fail", details="a\nb", console="[ 1.0] oops\n", output="said"),
        result("known", "xfail"),
        result("good", "skip", reason="no SNP"),  # again: --repeat
        result("dies", "crash"),
        result("harness", "error"),
    ]
    done = record.take(history, write(tmp_path / "r", given))
    assert done.new
    run = runs.get(history, done.run)
    assert (run.verdict, run.exit, run.seconds, run.label) == ("bad", 1, 12.5, "nightly")
    assert (run.started, run.seed, run.where) == (START, 0, "vng snp")
    assert run.kernel.series == ("KVM: SEV: a patch", "KVM: SEV: another")
    assert (run.kernel.release, run.kernel.compiler) == ("6.12.1-snptest", "gcc 12")
    assert run.command == ("run", "--kernel", "mine")
    assert run.counts == dict.fromkeys(Outcome, 1)
    assert runs.results(history, run) == given
    assert sums(history) == [(1, 3, 2)]


def test_a_run_is_imported_once_wherever_it_lies(tmp_path: Path, history: History) -> None:
    folder = write(tmp_path / "r", [result()])
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((folder / "results.jsonl").read_bytes())
    first = record.take(history, folder)
    assert record.take(history, folder) == record.Imported(folder, first.run, False)
    assert record.take(history, copy) == record.Imported(copy, first.run, False)
    assert sums(history) == [(1, 0, 0)]


def test_a_run_of_an_older_snptest_has_a_key_and_a_time(tmp_path: Path, history: History) -> None:
    folder = tmp_path / "20261123-081337"
    write(folder, [result()])
    file = folder / "results.jsonl"
    lines = file.read_text().splitlines()
    old = {"event": "start", "backend": "emulator", "revision": "v12", "kernel": None, "seed": 5}
    file.write_text("\n".join([json.dumps(old), *lines[1:]]) + "\n")
    run = runs.get(history, record.take(history, folder).run)
    assert time.strftime("%Y%m%d-%H%M%S", time.localtime(run.started)) == folder.name
    assert (run.backend, run.interface, run.seed) == ("emulator", "v12", 5)
    assert not record.take(history, folder).new


def test_what_the_kernel_said_about_itself_is_part_of_its_identity(
    tmp_path: Path, history: History
) -> None:
    about = {"event": "about", "release": "6.12.1", "build_id": "ab", "firmware": "1.55 build 40"}
    run = runs.get(history, record.take(history, write(tmp_path / "r", [], extra=[about])).run)
    assert (run.kernel.release, run.kernel.build_id) == ("6.12.1", "ab")
    assert run.firmware == "1.55 build 40"
    assert run.kernel.compiler == "gcc 12"


def test_the_host_of_the_local_backend_is_this_machine(tmp_path: Path, history: History) -> None:
    for number, backend in enumerate(("local", "emulator")):
        write(tmp_path / str(number), [result()], number, backend=backend, node="box", machine=None)
    record.take(history, tmp_path / "0")
    record.take(history, tmp_path / "1")
    assert [run.where for run in runs.runs(history)] == ["emulator", "local box"]


def test_a_folder_of_runs_stands_for_all_and_what_is_none_is_told(
    tmp_path: Path, history: History
) -> None:
    for number in range(3):
        write(tmp_path / "results" / str(number), [result()], number)
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.jsonl").write_text('{"event": "result"}\n')
    paths = [tmp_path / name for name in ("results", "empty", "no.jsonl")]
    done = list(record.import_all(history, paths))
    assert [each.new for each in done] == [True, True, True, False, False]
    assert "holds no results" in done[3].problem
    assert "first line" in done[4].problem


def test_hostile_text_is_stored_as_text(tmp_path: Path, history: History) -> None:
    evil = result("'); DROP TABLE run; --", "fail", reason=HOSTILE, console=HOSTILE)
    folder = write(tmp_path / "r", [evil], label=HOSTILE, host=HOSTILE, command=[HOSTILE])
    run = runs.get(history, record.take(history, folder).run)
    (found,) = runs.results(history, run)
    assert "DROP TABLE" in found.id
    for text in (found.reason, found.console, run.label, run.host, run.command[0]):
        assert "\x1b" not in text
        assert "\x00" not in text
        assert "<script>alert(1)</script>" in text


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"event": 7}',
        b'{"event": "result"}',
        b'{"event": "result", "id": "a", "suite": "s", "outcome": "maybe", "seconds": 1}',
        b'{"event": "result", "id": "a", "suite": "s", "outcome": "pass", "seconds": 1e999}',
        b'{"event": "result", "id": "a", "suite": "s", "outcome": "pass", "seconds": "nan"}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_cannot_be_read_is_told_and_the_rest_taken(
    tmp_path: Path, history: History, line: bytes
) -> None:
    folder = write(tmp_path / "r", [result("one"), result("two")])
    lines = (folder / "results.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "results.jsonl").write_bytes(b"".join([*lines[:2], line + b"\n", *lines[2:]]))
    run = runs.get(history, record.take(history, folder).run)
    assert run.counts == {Outcome.PASS: 2}
    assert run.broken == ("1 lines of its results cannot be read",)
    assert not run.good


def test_a_line_that_never_ends_is_no_file_of_results(tmp_path: Path, history: History) -> None:
    file = write(tmp_path / "r", [result()]) / "results.jsonl"
    with file.open("ab") as more:
        more.write(b"x" * (3 << 20))
    with pytest.raises(UserError, match="is no file of results: line 4 is huge"):
        record.take(history, file.parent)
    assert runs.runs(history) == []


# Runs that go on, or were cut -------------------------------------------------------------


def test_results_reach_the_history_as_they_come(tmp_path: Path) -> None:
    whole = (
        write(tmp_path / "r", [result(str(n)) for n in range(4)]) / "results.jsonl"
    ).read_bytes()
    lines = whole.splitlines(keepends=True)
    file = tmp_path / "r" / "results.jsonl"
    said: list[str] = []
    recorder = record.Recorder(tmp_path / "h.db", file, said.append)
    recorder.EVERY = 0.0
    with file.open("wb", buffering=0) as out, History.open(tmp_path / "h.db") as reader:
        fcntl.flock(out, fcntl.LOCK_EX)
        for number, line in enumerate(lines[:-1]):
            out.write(line[:10])
            if number:
                recorder.tick()
            out.write(line[10:])
            recorder.tick()
            assert len(runs.results(reader, 1)) == number
            assert record.catch_up(reader) == []
            assert runs.get(reader, 1).verdict == "running"
        out.write(lines[-1])
        recorder.end()
        assert runs.get(reader, 1).verdict == "good"
    assert said == []


def test_a_run_whose_writer_is_gone_is_completed_and_marked_by_the_next(tmp_path: Path) -> None:
    folder = write(tmp_path / "r", [result("one")], ended=False)
    with History.open(tmp_path / "h.db") as history:
        with (folder / "results.jsonl").open("ab") as writer:
            fcntl.flock(writer, fcntl.LOCK_EX)
            record.take(history, folder)
            assert runs.get(history, 1).verdict == "running"
            more = json.dumps({"event": "result", **result("two", "fail").as_dict()})
            writer.write(f'{more}\n{{"event": "res'.encode())
        assert record.catch_up(history) == [1]
        run = runs.get(history, 1)
        assert run.verdict == "cut"
        assert run.broken == (schema.CUT_SHORT,)
        assert run.counts == {Outcome.PASS: 1, Outcome.FAIL: 1}
        assert record.catch_up(history) == []


def test_a_run_that_ended_before_the_history_noticed_is_whole(tmp_path: Path) -> None:
    folder = write(tmp_path / "r", [result()], ended=False)
    file = folder / "results.jsonl"
    with History.open(tmp_path / "h.db") as history:
        with file.open("ab") as writer:
            fcntl.flock(writer, fcntl.LOCK_EX)
            record.take(history, folder)
            writer.write(b'{"event": "finish", "exit": 0, "seconds": 3, "broken": []}\n')
        record.catch_up(history)
        assert runs.get(history, 1).good


def test_a_run_whose_folder_is_gone_is_cut(tmp_path: Path) -> None:
    folder = write(tmp_path / "r", [result()], ended=False)
    with History.open(tmp_path / "h.db") as history:
        with (folder / "results.jsonl").open("ab") as writer:
            fcntl.flock(writer, fcntl.LOCK_EX)
            record.take(history, folder)
        (folder / "results.jsonl").unlink()
        assert record.catch_up(history) == [1]
        run = runs.get(history, 1)
        assert (run.verdict, run.counts) == ("cut", {Outcome.PASS: 1})


WRITER = """
    import fcntl, json, sys
    from pathlib import Path
    from harness.history.record import Recorder
    from tests.history_runs import header, result

    folder = Path(sys.argv[1])
    number = int(sys.argv[2])
    file = folder / f"r{number}" / "results.jsonl"
    file.parent.mkdir()
    Recorder.EVERY = 0.0
    with file.open("wb", buffering=0) as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        recorder = Recorder(folder / "h.db", file, print)
        out.write(json.dumps(header(number)).encode() + b"\\n")
        recorder.tick()
        print("ready", flush=True)
        for each in range(int(sys.argv[3])):
            line = {"event": "result", **result(str(each % 50), console="x" * 500).as_dict()}
            out.write(json.dumps(line).encode() + b"\\n")
            recorder.tick()
        out.write(b'{"event": "finish", "exit": 0, "seconds": 1, "broken": []}\\n')
        recorder.end()
"""


def writer(folder: Path, number: int, results: int) -> subprocess.Popen[bytes]:
    """Start a process that records a run; it says ready when the run is known."""
    arguments = [str(folder), str(number), str(results)]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_several_runs_are_recorded_at_once(tmp_path: Path) -> None:
    processes = [writer(tmp_path, number, 150) for number in range(4)]
    for process in processes:
        out, _ = process.communicate(timeout=100)
        assert (process.returncode, out) == (0, b"ready\n")
    with History.open(tmp_path / "h.db") as history:
        found = runs.runs(history)
        assert [(run.good, run.counts.total()) for run in found] == [(True, 150)] * 4
        assert all(len(runs.results(history, run)) == 150 for run in found)
        assert sums(history) == [(600, 0, 0)]
        assert history.one("SELECT count(*) FROM test") == (50,)


def test_killed_in_the_middle_of_writes_nothing_is_lost(tmp_path: Path) -> None:
    """SIGKILL at random moments: the file is sound, every whole line is there exactly once."""
    chance = random.Random(1)
    for number in range(8):
        process = writer(tmp_path, number, 100_000)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.stdout.close()
    with History.open(tmp_path / "h.db") as history:
        record.catch_up(history)
        assert history.one("PRAGMA integrity_check")[0] == "ok"
        found = runs.runs(history)
        assert len(found) == 8
        total = 0
        for run in found:
            lines = run.file.read_bytes().split(b"\n")
            stored = runs.results(history, run)
            assert run.verdict == "cut"
            assert len(stored) == len(lines) - 2  # the header, and what is behind the last end
            ids = [json.loads(line)["id"] for line in lines[1:-1]]
            assert [each.id for each in stored] == ids
            assert run.counts.total() == len(stored)
            total += len(stored)
        assert total > 100
        assert sums(history) == [(total, 0, 0)]


# The file ---------------------------------------------------------------------------------


def test_a_locked_history_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    History.open(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with History.open(path, busy=0.3) as history:
        with pytest.raises(Locked, match=r"h.db has been locked by another process for 0.3 s"):
            record.take(history, write(tmp_path / "r", [result()]))
        assert time.monotonic() - began < 5
        assert runs.runs(history) == []  # reading goes on
        other.execute("COMMIT")
        record.take(history, tmp_path / "r")
        assert runs.get(history, 1).good
    other.close()


def test_a_run_goes_on_while_the_history_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    History.open(path).close()
    file = write(tmp_path / "r", [result()]) / "results.jsonl"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    said: list[str] = []
    recorder = record.Recorder(path, file, said.append)
    recorder.SHORT = 0.05
    recorder.tick()
    assert recorder.run is None
    recorder.end(wait=0.1)
    assert "locked by another process" in said[0]
    assert f"snptest history import {file.parent}" in said[0]
    other.execute("COMMIT")
    recorder = record.Recorder(path, file, said.append)
    recorder.end()
    assert recorder.run == 1
    assert len(said) == 1
    other.close()


def test_a_full_disk_takes_nothing_away(tmp_path: Path, history: History) -> None:
    file = write(tmp_path / "r", [result("one")]) / "results.jsonl"
    taker = Taker(history, file)
    ended = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(ended[:-1]))
    taker.step()
    noise = random.Random(1)
    more = [result(str(n), console=noise.randbytes(9000).hex()) for n in range(50)]
    lines = [json.dumps({"event": "result", **each.as_dict()}) for each in more]
    file.write_bytes(b"".join(ended[:-1]) + "".join(f"{each}\n" for each in lines).encode())
    pages = history.one("PRAGMA page_count")[0]
    history.db.execute(f"PRAGMA max_page_count = {pages + 20}")
    for _ in range(2):
        with pytest.raises(UserError, match=r"no space left for .*h\.db"):
            taker.step()
    assert runs.get(history, 1).counts == {Outcome.PASS: 1}
    history.db.execute(f"PRAGMA max_page_count = {pages + 2000}")
    with file.open("ab") as out:
        out.write(ended[-1])
    taker.step()
    run = runs.get(history, 1)
    assert run.good
    assert runs.results(history, run) == [result("one"), *more]
    assert sums(history) == [(51, 0, 0)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no database at all, but long enough to be looked at" * 50, "is damaged"),
        (b"SQLite format 3\x00" + bytes(range(256)) * 40, "is damaged"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "h.db"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        History.open(path)
    assert "snptest history import" in caught.value.hint
    assert path.read_bytes() == content


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with History.open(path) as history:
        for number in range(20):
            folder = write(tmp_path / str(number), [result(str(n)) for n in range(200)], number)
            record.take(history, folder)
    raw = bytearray(path.read_bytes())
    raw[8192:] = random.Random(3).randbytes(len(raw) - 8192)
    path.write_bytes(raw)
    with pytest.raises(UserError, match="is damaged"):
        with History.open(path) as history:
            for run in runs.runs(history):
                runs.results(history, run)


def test_other_databases_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    with pytest.raises(UserError, match="is no history of snptest"):
        History.open(path)


def test_a_newer_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with History.open(path) as history:
        history.db.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="newer snptest"):
        History.open(path)


def test_an_older_history_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "h.db"
    with History.open(path) as history:
        record.take(history, write(tmp_path / "r", [result()]))
    more = "ALTER TABLE run ADD COLUMN mood TEXT;\nUPDATE run SET mood = 'fine';"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, more))
    with History.open(path) as history:
        assert history.one("SELECT mood FROM run") == ("fine",)
        assert history.one("PRAGMA user_version") == (len(schema.MIGRATIONS),)
    wrong = "ALTER TABLE run ADD COLUMN more TEXT;\nUPDATE nowhere SET mood = 1;"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, wrong))
    with pytest.raises(sqlite3.OperationalError):
        History.open(path)
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:-1])
    with History.open(path) as history:  # nothing of the one that failed is left
        columns = [row[1] for row in history.all("PRAGMA table_info(run)")]
        assert columns[-1] == "mood"


def test_kernels_of_an_older_history_have_no_public_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
    with History.open(tmp_path / "h.db") as history:
        history.db.execute(
            "INSERT INTO kernel VALUES"
            " (1, x'00', 'mine', '6.12', 'x@v6.12', '', '', '[]', '[]', '', '')"
        )
    monkeypatch.undo()
    with History.open(tmp_path / "h.db") as history:
        old = history.one("SELECT name, base_commit, base_url, patchset FROM kernel")
        assert old == ("mine", "", "", "")
        record.take(history, write(tmp_path / "r", [result()]))
        assert len(runs.runs(history)) == 1


def test_a_history_that_calls_interfaces_revisions_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:2])
    with History.open(tmp_path / "h.db") as history:
        for statement in (
            "INSERT INTO kernel (id, digest, name, release, base, tree, git_commit, series, config,"
            " compiler, build_id) VALUES (1, x'00', '', '', '', '', '', '[]', '[]', '', '')",
            "INSERT INTO setting (id, backend, revision, machine, host, firmware, harness, kernel)"
            " VALUES (1, 'emulator', 'v12', '', '', '', '', 1)",
            "INSERT INTO run (id, key, state, started, setting, label, seed, command, file)"
            " VALUES (1, 'k', 1, 0, 1, '', 0, '[]', '/nowhere')",
            "INSERT INTO test VALUES (1, 'a', 'psc', 'v12', 'emulator', 'It holds.', '[]', '[]')",
            "INSERT INTO result VALUES (1, 0, 1, 0, 5, NULL)",
        ):
            history.db.execute(statement)
    monkeypatch.undo()
    with History.open(tmp_path / "h.db") as history:
        (run,) = runs.runs(history, 5)
        assert (run.interface, run.what) == ("v12", "v12")
        (found,) = runs.results(history, run)
        assert (found.id, found.interface) == ("a", "v12")
        assert runs.runs(history, 5, runs.Filter(interface="v12")) == [run]


def test_a_history_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot make"):
        History.open(Path("/proc/nothing/h.db"))
    with pytest.raises(UserError, match="there is no history yet"):
        History.open(tmp_path / "h.db", make=False)
    with pytest.raises(UserError, match="cannot open"):
        History.open(tmp_path)


@pytest.mark.parametrize(
    ("code", "free", "said"),
    [
        (sqlite3.SQLITE_PROTOCOL, 1 << 30, "the file system of .* cannot lock or hold it"),
        (sqlite3.SQLITE_IOERR, 1 << 30, "cannot be read or written: disk I/O error"),
        (sqlite3.SQLITE_IOERR, 4096, "no space left for"),
    ],
)
def test_what_a_share_or_a_full_disk_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, free: int, said: str
) -> None:
    """A home on NFS answers "locking protocol", a full disk "disk I/O error"."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    monkeypatch.setattr(store, "_free", lambda path: free)
    with pytest.raises(UserError, match=said), store.told(tmp_path / "h.db", 1.0):
        raise error


def test_where_the_history_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNPTEST_HISTORY", "/a/b.db")
    assert store.default_path() == Path("/a/b.db")
    monkeypatch.setenv("SNPTEST_HISTORY", "")
    assert store.default_path() is None
    monkeypatch.delenv("SNPTEST_HISTORY")
    monkeypatch.setenv("SNPTEST_RESULTS", "/r")
    assert store.default_path() == Path("/r/history.db")
    monkeypatch.delenv("SNPTEST_RESULTS")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert store.default_path() == Path("/s/snptest/history.db")
