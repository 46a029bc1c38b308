# SPDX-License-Identifier: GPL-2.0-only
"""Nights: their schedules, the queue over several hosts, and what is said in the end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from harness.cli import nightly as command
from harness.errors import BuildError, UsageError, UserError
from harness.history.judge import Judged, Status
from harness.nightly import night as nights
from harness.nightly import render
from harness.nightly.night import Operation, Tools
from harness.nightly.schedule import Job, Revision, Schedule, load
from harness.nightly.state import Night
from harness.report.outcome import ExitCode, Outcome, Result
from harness.suiterun import SuiteRun
from tests.mutants.mutant import ROOT

FARM = """
suites = ["psc", "gmem"]
hours = 1

[revisions.old]
kernel = "old"

[revisions.new]
base = "~/linux@topic"
series = ["a.mbox"]

[places.milan]
backend = "ssh"
hosts = ["milan1", "milan2"]

[places.turin]
backend = "ssh"
hosts = ["turin"]
suites = ["launch"]
revisions = ["new"]
options = ["-k", "start"]
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SNPTEST_HISTORY", str(tmp_path / "state" / "history.db"))
    monkeypatch.setenv("SNPTEST_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def schedule(folder: Path, text: str = FARM) -> Schedule:
    path = folder / "farm.toml"
    path.write_text(text)
    return load(path)


def passed(*tests: str) -> SuiteRun:
    results = [Result(each, "gmem", "", Outcome.PASS, 0.1) for each in tests or ("t",)]
    return SuiteRun(results, code=ExitCode.PASSED)


LOST = SuiteRun(code=ExitCode.BROKEN, broken=["the host does not answer"])


class Farm:
    """Hosts that say what a test wants them to say."""

    def __init__(self, answer: Callable[[str, list[str]], SuiteRun] | None = None) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.at_once: dict[str, int] = {}
        self.most = 0
        self._lock = threading.Lock()
        self._answer = answer or (lambda host, words: passed())

    def __call__(self, words: Sequence[str], within: float) -> SuiteRun:
        host = words[words.index("--host") + 1] if "--host" in words else "here"
        with self._lock:
            self.asked.append((host, list(words)))
            self.at_once[host] = self.at_once.get(host, 0) + 1
            assert self.at_once[host] == 1, "one job at a time on a host"
            self.most = max(self.most, sum(self.at_once.values()))
        time.sleep(0.02)
        try:
            return self._answer(host, list(words))
        finally:
            with self._lock:
                self.at_once[host] -= 1

    @property
    def tools(self) -> Tools:
        return Tools(self, lambda revision: f"nightly-{revision.name}", held)


@contextlib.contextmanager
def held(coordinator: str, place: str, owner: str) -> Iterator[None]:
    yield


def done(wanted: Schedule, farm: Farm, tools: Tools | None = None) -> Night:
    with Night(wanted.name, {}, 3600) as night:
        Operation(wanted, night, tools=tools or farm.tools).run()
    return night


# Schedules ------------------------------------------------------------------------------


def test_ours_is_well_formed() -> None:
    wanted = load(ROOT / "ci" / "nightly.toml")
    names = [job.name for job in wanted.jobs]
    assert len(names) == len(set(names)) == 20
    assert names[0] == "v12/emulator/launch"
    assert "debian/machine/gmem" in names


def test_every_key_is_explained(tmp_path: Path) -> None:
    """All keys of a schedule, its revisions and places are in ci/nightly.toml's comments."""
    text = (ROOT / "ci" / "nightly.toml").read_text()
    shown = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    keys = {line.partition(" =")[0] for line in shown if " = " in line and line[0].isalpha()}
    for old in ("hours = 1", 'kernel = "old"', 'suites = ["launch"]'):
        path = tmp_path / "x.toml"
        path.write_text(FARM.replace(old, f"{old}\nnonsense = 1"))
        with pytest.raises(
            UsageError, match="nonsense is no key that is known; want one of"
        ) as caught:
            load(path)
        known = set(caught.value.message.rpartition("want one of ")[2].split(", "))
        assert known - {"revisions", "places"} <= keys, known


def test_what_a_schedule_comes_to(tmp_path: Path) -> None:
    wanted = schedule(tmp_path)
    assert [job.name for job in wanted.jobs] == [
        "old/milan/psc",
        "old/milan/gmem",
        "new/milan/psc",
        "new/milan/gmem",
        "new/turin/launch",
    ]
    assert (wanted.name, wanted.hours, wanted.confirm) == ("farm", 1.0, 2)
    assert wanted.label(wanted.jobs[0]) == "farm/old/milan/psc"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hours = 1", "hours = 0", "hours is 0; want a number of hours from 0.01 to 168"),
        ("hours = 1", "hour = 1", "hour is no key that is known.*did you mean hours"),
        ('kernel = "old"', "", "revisions.old has none of them; want exactly one of base, kernel"),
        (
            'kernel = "old"',
            'kernel = "old"\nseries = ["x"]',
            "revisions.old.series is given, and base is not; want it only",
        ),
        ('kernel = "old"', 'interface = "v12"', None),
        (
            'backend = "ssh"\nhosts = ["turin"]',
            'backend = "ssh"',
            "places.turin.hosts is missing; want names of hosts",
        ),
        (
            'hosts = ["turin"]',
            'hosts = ["here"]',
            "places.turin.hosts is .*here.*; want other names",
        ),
        (
            'revisions = ["new"]',
            'revisions = ["newer"]',
            "places.turin.revisions names .newer.; want some of .*did you mean new",
        ),
        ("[places.milan]", "[places.'a b']", "places has the name .a b.; want letters"),
        (
            'backend = "ssh"\nhosts = ["milan1", "milan2"]',
            'backend = "x"',
            'places.milan.backend is "x"; want one of emulator',
        ),
    ],
)
def test_mistakes_are_told(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    text = FARM.replace(old, new, 1)
    assert text != FARM
    if message is None:
        assert not [job for job in schedule(tmp_path, text).jobs if job.revision == "old"]
        return
    with pytest.raises(UsageError, match=message):
        schedule(tmp_path, text)


def test_a_place_that_cannot_test_what_it_names(tmp_path: Path) -> None:
    text = '[revisions.x]\ninterface = "v12"\n[places.y]\nbackend = "vng"\n'
    with pytest.raises(UsageError, match="no place can test any of the revisions"):
        schedule(tmp_path, text)
    with pytest.raises(UsageError, match=r"backend vng of places.y cannot test revisions.x, which"):
        schedule(tmp_path, text + 'revisions = ["x"]\n')


# The queue ------------------------------------------------------------------------------


def test_everything_is_run_once_side_by_side(tmp_path: Path) -> None:
    wanted, farm = schedule(tmp_path), Farm()
    night = done(wanted, farm)
    assert len(farm.asked) == len(wanted.jobs)
    assert farm.most >= 2
    assert all(each.done and not each.broken for each in night.records.values())
    hosts = {job.place: {h for h, w in farm.asked if wanted.label(job) in w} for job in wanted.jobs}
    assert hosts["turin"] == {"turin"}
    assert hosts["milan"] <= {"milan1", "milan2"}
    [words] = [words for host, words in farm.asked if host == "turin"]
    assert words == [
        *("launch", "--backend", "ssh", "--kernel", "nightly-new", "--host", "turin"),
        *("--seed", "0", "--label", "farm/new/turin/launch", "-k", "start"),
    ]
    assert night.over


def test_what_is_built_waits_and_the_rest_does_not(tmp_path: Path) -> None:
    wanted, farm = schedule(tmp_path), Farm()
    begun = threading.Event()

    def build(revision: Revision) -> str:
        deadline = time.monotonic() + 30
        while len(farm.asked) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)  # those of the kernel that is there already
        begun.set()
        return "built"

    done(wanted, farm, Tools(farm, build, held))
    assert begun.is_set()
    assert [words[words.index("--kernel") + 1] for _, words in farm.asked[:2]] == ["old", "old"]
    assert {w[w.index("--kernel") + 1] for _, w in farm.asked[2:]} == {"built"}


def test_what_does_not_build_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    def build(revision: Revision) -> str:
        raise BuildError("sev.c:7: error: expected ';'\n    7 | x", "all of it: /log")

    wanted, farm = schedule(tmp_path), Farm()
    night = done(wanted, farm, Tools(farm, build, held))
    assert len(farm.asked) == 2
    broken = {name: each.broken for name, each in night.records.items() if each.broken}
    assert set(broken) == {"new/milan/psc", "new/milan/gmem", "new/turin/launch"}
    assert broken["new/milan/psc"] == [
        "new was not built: sev.c:7: error: expected ';' (all of it: /log)"
    ]


def test_a_lost_host_s_jobs_go_to_its_equals(tmp_path: Path) -> None:
    wanted = schedule(tmp_path)
    farm = Farm(lambda host, words: LOST if host == "milan1" else passed())
    night = done(wanted, farm)
    milan = [each for name, each in night.records.items() if "/milan/" in name]
    assert all(each.done and each.worker == "milan2" and not each.broken for each in milan)
    asked = sum(host == "milan1" for host, _ in farm.asked)
    assert 1 <= asked <= nights.STRIKES
    assert asked < nights.STRIKES or night.lost == {"milan1": "the host does not answer"}


def test_where_all_hosts_are_lost_the_others_go_on(tmp_path: Path) -> None:
    wanted = schedule(tmp_path)
    farm = Farm(lambda host, words: passed() if host == "turin" else LOST)
    night = done(wanted, farm)
    assert not night.records["new/turin/launch"].broken
    milan = [each for name, each in night.records.items() if "/milan/" in name]
    assert all(each.done and each.broken for each in milan)
    assert len(farm.asked) <= 1 + 2 * nights.STRIKES
    assert set(night.lost) <= {"milan1", "milan2"}


def test_failures_run_again(tmp_path: Path) -> None:
    def answer(host: str, words: list[str]) -> SuiteRun:
        if words[0] != "gmem":
            return passed()
        results = [
            Result(name, "gmem", "", outcome, 0.1)
            for name, outcome in (("a", Outcome.FAIL), ("b", Outcome.PASS), ("c", Outcome.CRASH))
        ]
        return SuiteRun(results, code=ExitCode.FAILED, header={"folder": "/results/1"})

    wanted = schedule(tmp_path)
    farm = Farm(answer)
    night = done(wanted, farm)
    again = [words for _, words in farm.asked if words[0] not in ("gmem", "psc", "launch")]
    assert [words[:2] for words in again] == [["a", "c"]] * 2
    assert {words[words.index("--repeat") + 1] for words in again} == {"2"}
    assert {words[words.index("--label") + 1] for words in again} == {
        "farm/old/milan/gmem again",
        "farm/new/milan/gmem again",
    }
    assert night.records["old/milan/gmem"].folders == ["/results/1"]


def test_a_night_ends_at_its_hour(tmp_path: Path) -> None:
    wanted = schedule(tmp_path, FARM.replace("hours = 1", "hours = 0.01"))
    with Night(wanted.name, {}, 3600) as night:
        night.began -= 60
        farm = Farm()
        Operation(wanted, night, tools=farm.tools).run()
    assert farm.asked == []
    assert {each.broken[0] for each in night.records.values()} == {
        "the night was over after 0.01 hours"
    }


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_clock_that_jumps_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    def answer(host: str, words: list[str]) -> SuiteRun:
        monkeypatch.setattr(time, "time", lambda: 1.7e9 + jump)
        return passed()

    monkeypatch.setattr(time, "time", lambda: 1.7e9)
    wanted, farm = schedule(tmp_path), Farm(answer)
    night = done(wanted, farm)
    assert len(farm.asked) == len(wanted.jobs)
    assert all(each.done and not each.broken for each in night.records.values())


def test_a_night_of_the_future_is_not_gone_on_with(tmp_path: Path) -> None:
    """The clock was wrong then, or is now."""
    with Night("farm", {}, 3600) as night:
        night.began += 100000
        night.record("x").done = True
        night.write()
    with Night("farm", {}, 3600) as night:
        assert not night.resumed


def test_what_a_worker_raises_ends_the_night(tmp_path: Path) -> None:
    def answer(host: str, words: list[str]) -> SuiteRun:
        raise RuntimeError("a bug of ours")

    with pytest.raises(RuntimeError, match="a bug of ours"):
        done(schedule(tmp_path), Farm(answer))


def test_places_of_a_coordinator_are_held_meanwhile(tmp_path: Path) -> None:
    text = FARM.replace('hosts = ["turin"]', 'hosts = ["turin"]\ncoordinator = "farm:20408"')
    holds: list[str] = []

    @contextlib.contextmanager
    def place(coordinator: str, name: str, owner: str) -> Iterator[None]:
        holds.append(f"{coordinator} {name} {owner}")
        yield
        holds.append("released")

    def answer(host: str, words: list[str]) -> SuiteRun:
        assert host != "turin" or holds == ["farm:20408 turin snptest-farm"]
        return passed()

    wanted, farm = schedule(tmp_path, text), Farm(answer)
    done(wanted, farm, Tools(farm, lambda revision: "k", place))
    assert holds == ["farm:20408 turin snptest-farm", "released"]

    @contextlib.contextmanager
    def refused(coordinator: str, name: str, owner: str) -> Iterator[None]:
        if coordinator:
            raise UserError("labgrid place turin: somebody has it")
        yield

    night = done(wanted, Farm(), Tools(Farm(), lambda revision: "k", refused))
    record = night.records["new/turin/launch"]
    assert record.broken == ["labgrid place turin: somebody has it"]


# Interrupted ----------------------------------------------------------------------------


def test_a_night_goes_on_where_it_was(tmp_path: Path) -> None:
    wanted = schedule(tmp_path)
    stop = threading.Event()

    def answer(host: str, words: list[str]) -> SuiteRun:
        if stop.is_set():
            raise KeyboardInterrupt
        if words[0] == "gmem":
            stop.set()
        return passed()

    first = Farm(answer)
    with pytest.raises(KeyboardInterrupt):
        done(wanted, first)
    stop.clear()
    with Night(wanted.name, {}, 3600) as night:
        known = {name for name, each in night.records.items() if each.done}
        assert known
        farm = Farm()
        Operation(wanted, night, tools=farm.tools).run()
    assert len(farm.asked) == len(wanted.jobs) - len(known)
    # One that is over is not gone on with, nor an old one, nor that of another schedule.
    with Night(wanted.name, {}, 3600) as night:
        assert not night.resumed
    with Night(wanted.name, {"digest": "x"}, 3600) as night:
        assert not night.resumed


def test_a_second_controller_is_refused(tmp_path: Path) -> None:
    with Night("farm", {}, 3600), pytest.raises(UserError, match="this very night is under way"):
        Night("farm", {}, 3600).__enter__()


# On the emulator ------------------------------------------------------------------------

SMALL = """
suites = ["psc", "launch"]
confirm = 1

[revisions.v12]
interface = "v12"

[places.emulator]
backend = "emulator"
options = ["-k", "{tests}", "-n", "0"]
"""
TESTS = "test_flags_must_be_zero or test_hole"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL.format(tests=TESTS))
    return path


def test_a_night_on_the_emulator(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two nights of real runs: good, then with one outcome in its results turned bad."""
    options = command.NightlyOptions(
        small, markdown=tmp_path / "night.md", json=tmp_path / "night.json"
    )
    first = command.nightly(only(options, "launch"))
    text = capsys.readouterr().out
    assert first == 0, text
    assert "small: the job is good" in text
    record = json.loads((tmp_path / "night.json").read_text())
    [job] = record["jobs"]
    assert job["problem"] == ""
    assert (Path(job["folders"][0]) / "results.jsonl").exists()
    assert "| v12/emulator/launch | here |" in (tmp_path / "night.md").read_text()

    def judge(words: Sequence[str], within: float) -> SuiteRun:
        run = nights.judge([*words, "--no-history"], within)
        file = Path(run.folder) / "results.jsonl"
        lines = file.read_text().splitlines()
        at = next(n for n, line in enumerate(lines) if '"outcome": "pass"' in line)
        lines[at] = lines[at].replace('"outcome": "pass"', '"outcome": "fail"')
        file.write_text("\n".join(lines) + "\n")
        return run

    code = command.nightly(only(options, "launch"), Tools(judge))
    text = capsys.readouterr().out
    assert code == 1, text
    assert "1 new failure" in text
    assert "between the last good night and this one" in text


def only(options: command.NightlyOptions, *words: str) -> command.NightlyOptions:
    return dataclasses.replace(options, only=words)


def test_what_each_job_of_a_kernel_says_is_told_once() -> None:
    boot = Result("boot::box", "boot", "", Outcome.FAIL, 0.0, reason="SEV-SNP is off")
    own = Result("test_hole", "gmem", "", Outcome.FAIL, 0.0)

    def verdict(*results: Result) -> Any:
        judged = [Judged(each.id, Status.FAILING, each) for each in results]
        return SimpleNamespace(
            problem="",
            job=SimpleNamespace(revision="series"),
            record=SimpleNamespace(worker="box"),
            of=lambda status: judged if status is Status.FAILING else [],
        )

    [(heading, lines)] = render.sections([verdict(boot), verdict(boot, own)])
    assert heading == "still failing"
    told = "boot::box (series on box): SEV-SNP is off (2 jobs)"
    assert lines == [told, "test_hole (series on box)"]


def test_only_some_jobs(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.nightly(command.NightlyOptions(small, dry_run=True)) == 0
    text = capsys.readouterr().out
    assert "v12/emulator/psc  on here" in text
    assert "2 jobs" in text
    with pytest.raises(UsageError, match="--only gmem: no job has that"):
        command.nightly(command.NightlyOptions(small, only=("gmem",), dry_run=True))


def test_a_killed_controller_leaves_nothing_running(small: Path) -> None:
    small.write_text(SMALL.format(tests="test"))
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "nightly", str(small)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "v12/emulator/psc on here" in line:
            break
    time.sleep(3)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    deadline = time.monotonic() + 30
    while group := members(process.pid):
        assert time.monotonic() < deadline, f"still there: {group}"
        time.sleep(0.1)


def members(session: int) -> list[str]:
    """Processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(path.parent.name)
    return found


# The templates of ci/ -------------------------------------------------------------------


def test_templates_call_what_there_is() -> None:
    """Each command of snptest in ci/ has the subcommand and the options that it is given."""
    texts = {path: path.read_text() for path in sorted((ROOT / "ci").rglob("*")) if path.is_file()}
    for path, text in texts.items():
        if path.suffix == ".yml":
            assert yaml.safe_load(text), path
        if path.suffix == ".toml":
            tomllib.loads(text)
    calls = set()
    for text in texts.values():
        for found in re.finditer(
            r"\./snptest ((?:\w[\w-]*) .*|\w+)", text.replace("\n      --", " --")
        ):
            words = found[1].split()
            calls.add((words[0], *(w.partition("=")[0] for w in words if w.startswith("--"))))
    assert len(calls) >= 5
    for name, *options in calls:
        if name in ("check", "machine"):
            continue
        done = subprocess.run(
            [sys.executable, "-m", "harness", name, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, name
        for option in options:
            assert option in done.stdout, (name, option)


def test_a_job_s_name_is_its_parts() -> None:
    assert Job("a", "b", "c").name == "a/b/c"
