# SPDX-License-Identifier: GPL-2.0-only
"""What is asked of the history: the last good run, what is new, flakes, trends; retention."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.errors import UsageError, UserError
from harness.history import prune, record, runs, trend
from harness.history.judge import Status, judge
from harness.history.runs import Filter, StoredRun
from harness.history.store import History
from harness.report.outcome import BOOT, Outcome, Result
from tests.history_runs import result, write

P, F, C, S, X, E = "pass", "fail", "crash", "skip", "xfail", "error"


class Story:
    """A history to which runs are added, one an hour."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history = History.open(folder / "h.db")
        self.number = 0

    def add(self, outcomes: dict[str, str] | Sequence[Result], **more: object) -> StoredRun:
        """Add a run: test names and their outcomes, or results."""
        if isinstance(outcomes, dict):
            outcomes = [
                result(name, each, seconds=1 + self.number / 10)
                for name, words in outcomes.items()
                for each in words.split()
            ]
        folder = self.folder / f"r{self.number}"
        write(folder, outcomes, self.number, **more)  # type: ignore[arg-type]
        self.number += 1
        return runs.get(self.history, record.take(self.history, folder).run)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    made = Story(tmp_path)
    yield made
    made.history.close()


def built(tree: str) -> dict[str, object]:
    return {"release": f"6.12-{tree}", "tree": tree}


def statuses(story: Story, run: StoredRun, **more: object) -> dict[str, Status]:
    found = judge(story.history, run, **more)  # type: ignore[arg-type]
    return {each.key.partition("test_psc.py::test_")[2][:-5]: each.status for each in found.tests}


def test_a_run_is_held_against_the_last_good_one_and_the_one_before(story: Story) -> None:
    good = {"fine": P, "breaks": P, "known": X, "goes": P, "shaky": P}
    first = story.add(good, built=built("a"))
    middle = story.add(
        {"fine": P, "breaks": F, "heals": F, "known": X, "goes": P, "shaky": F}, built=built("b")
    )
    again = story.add({"fine": P, "shaky": P, "breaks": C, "heals": F}, built=built("b"))
    last = story.add(
        {
            "fine": F,
            "breaks": F,
            "heals": P,
            "known": X,
            "shaky": F,
            "new": E,
            "twice": "pass fail",
        },
        built=built("b"),
    )
    assert statuses(story, middle) == {
        "breaks": Status.NEW,
        "heals": Status.NEW,
        "known": Status.KNOWN,
        # Seen from now on, two runs of one kernel disagree about it.
        "shaky": Status.NEW,
    }
    found = judge(story.history, last)
    assert found.good is not None
    assert (found.good.id, found.before and found.before.id) == (first.id, again.id)
    assert statuses(story, last) == {
        # The same kernel passed it an hour ago, but never after a failure: its host may be broken.
        "fine": Status.NEW,
        "breaks": Status.FAILING,
        "heals": Status.FLAKY,  # and this one it failed
        "known": Status.KNOWN,
        "shaky": Status.FLAKY,
        "new": Status.NEW,
        "twice": Status.FLAKY,
        "goes": Status.GONE,
    }
    (failing,) = found.of(Status.FAILING)
    assert failing.since is not None
    assert failing.since.id == middle.id
    assert found.line == (
        "2 new failures, 1 still failing, 3 flaky, 1 known issue, 1 gone; last good: run 1"
    )


def test_a_host_that_broke_is_no_flake(story: Story) -> None:
    """Nothing was changed, and from one night on a test fails: until it passes again."""
    story.add({"one": P}, built=built("a"))
    for status in (Status.NEW, Status.FAILING):
        assert statuses(story, story.add({"one": F}, built=built("a"))) == {"one": status}
    story.add({"one": P}, built=built("a"))
    assert statuses(story, story.add({"one": F}, built=built("a"))) == {"one": Status.FLAKY}


def test_what_passes_when_it_runs_again_is_flaky(story: Story) -> None:
    story.add({"one": P, "two": P}, built=built("a"))
    run = story.add({"one": F, "two": F}, built=built("b"))
    again = story.add({"one": P, "two": F}, built=built("b"), label="again")
    assert statuses(story, run) == {"one": Status.NEW, "two": Status.NEW}
    assert statuses(story, run, again=[again]) == {"one": Status.FLAKY, "two": Status.NEW}


def test_fixed_is_what_another_kernel_no_longer_fails(story: Story) -> None:
    story.add({"one": P, "two": F}, built=built("a"))
    run = story.add({"one": P, "two": P}, built=built("b"))
    assert statuses(story, run) == {"two": Status.FIXED}


def test_the_first_run_of_its_kind_has_nothing_to_be_held_against(story: Story) -> None:
    story.add({"one": P}, host="a")
    run = story.add({"one": F}, host="b")
    found = judge(story.history, run)
    assert (found.good, found.before) == (None, None)
    assert [each.status for each in found.tests] == [Status.NEW]


def test_what_a_run_that_was_cut_lacks_is_not_gone(story: Story) -> None:
    story.add({"one": P, "two": P})
    run = story.add({"one": P}, ended=False)
    assert statuses(story, run) == {}


def test_runs_of_a_few_tests_do_not_hide_what_was_before(story: Story) -> None:
    story.add({"one": P, "two": P}, built=built("a"))
    broke = story.add({"one": F, "two": P}, built=built("b"))
    story.add({"two": P}, built=built("c"), command=["run", "-k", "two"])
    run = story.add({"one": F, "two": P}, built=built("d"))
    (found,) = judge(story.history, run).tests
    assert (found.status, found.since and found.since.id) == (Status.FAILING, broke.id)
    part = story.add({"two": P}, built=built("e"), command=["run", "-k", "two"])
    assert statuses(story, part) == {}


def test_repetitions_tell_flaky_from_broken(story: Story) -> None:
    story.add({"one": P, "two": P}, built=built("a"))
    run = story.add({"one": F, "two": F}, built=built("b"))
    again = story.add({"one": P, "two": F}, built=built("b"), label="again")
    assert statuses(story, run) == {"one": Status.NEW, "two": Status.NEW}
    assert statuses(story, run, again=[again]) == {"one": Status.FLAKY, "two": Status.NEW}


def test_a_boot_that_is_silent_is_not_gone(story: Story) -> None:
    boot = result("boot", X, suite=BOOT, id="boot::mine", interface="")
    story.add([result("one"), boot])
    assert statuses(story, story.add({"one": P})) == {}


def test_runs_are_filtered_and_found(story: Story, tmp_path: Path) -> None:
    first = story.add({"one": P}, host="a", label="x")
    second = story.add({"one": F}, host="b", label="y")
    third = story.add({"one": P}, host="b", label="y", ended=False)
    found = [each.id for each in runs.runs(story.history)]
    assert found == [third.id, second.id, first.id]
    for which, expected in (
        (Filter(host="b"), [3, 2]),
        (Filter(label="x"), [1]),
        (Filter(good=True), [1]),
        (Filter(ended=True), [2, 1]),
        (Filter(before=3), [2, 1]),
        (Filter(kernel="other"), []),
    ):
        assert [each.id for each in runs.runs(story.history, -1, which)] == expected
    assert runs.find(story.history, "last").id == 3
    assert runs.find(story.history, "last-2").id == 1
    assert runs.find(story.history, "2").id == 2
    assert runs.find(story.history, str(tmp_path / "r0")).id == 1
    for word in ("last-3", "99", "nonsense", "last-x", "9" * 400, str(tmp_path)):
        with pytest.raises(UserError):
            runs.find(story.history, word)


def test_the_last_good_run_is_whole_and_of_the_same_kind(story: Story) -> None:
    story.add({"one": P}, host="b")
    good = story.add({"one": P, "known": X}, host="a")
    story.add({"one": P}, host="a", label="other")
    story.add({"one": P}, host="a", kernel="other")
    story.add({"one": F}, host="a")
    story.add({"one": P}, host="a", ended=False)
    last = story.add({"one": P}, host="a")
    found = runs.last_good(story.history, last)
    assert found is not None
    assert found.id == good.id
    other = runs.last_good(story.history, last, kernel=False)
    assert other is not None
    assert other.id == 4


def test_flakes_are_disagreements_of_one_setting(story: Story) -> None:
    for tree, outcomes in (("a", [P, P, F, P]), ("b", [F, F, F, P]), ("c", [F, F]), ("d", [P])):
        for each in outcomes:
            story.add({"x": each, "steady": P, "skips": S}, built=built(tree))
    window = [each.id for each in runs.runs(story.history)]
    found = {
        each.name.partition("::test_")[2]: each for each in trend.trends(story.history, window)
    }
    assert found["x[v12]"].flakes == 2
    assert found["x[v12]"].flake_rate == 2 / 11
    assert (found["x[v12]"].good, found["x[v12]"].bad) == (5, 6)
    assert found["steady[v12]"].flakes == found["skips[v12]"].flakes == 0
    assert found["steady[v12]"].median == pytest.approx(1.5)
    assert found["skips[v12]"].last is Outcome.SKIP
    assert len(found["x[v12]"].outcomes) == 11


def test_runs_of_an_unknown_snptest_agree_with_themselves_only(story: Story) -> None:
    for each in (F, P, F):
        story.add({"x": each, "twice": "pass fail"}, harness="", command=[])
    window = [run.id for run in runs.runs(story.history)]
    found = trend.trends(story.history, window)
    assert [each.flakes for each in found if "test_x" in each.name] == [0]
    assert [each.flakes for each in found if "twice" in each.name] == [3]
    part = story.add({"x": P}, harness="", command=[])
    assert Status.GONE not in statuses(story, part).values()


def test_a_test_over_time(story: Story) -> None:
    for number in range(30):
        story.add({"x": F if number == 3 else P, "x_more": P})
    ((test, name),) = trend.find_tests(story.history, "suites/psc/test_psc.py::test_x")
    assert name == "suites/psc/test_psc.py::test_x[v12]"
    points = trend.points(story.history, test)
    assert len(points) == 30
    assert [point.outcome for point in points[-4:]] == [Outcome.FAIL, *[Outcome.PASS] * 3]
    assert points[-4].reason == "because of x"
    assert points[0].seconds == pytest.approx(3.9)
    days = trend.days(story.history, test)
    assert [(day.good, day.bad) for day in days] == [(9, 1), (20, 0)]
    assert trend.totals(story.history)[test] == (29, 1)
    assert len(trend.find_tests(story.history, "test_x")) == 2
    with pytest.raises(UsageError):
        trend.find_tests(story.history, "%")


def test_columns_of_the_matrix_are_the_newest_runs_of_each(story: Story) -> None:
    story.add({"x": P}, built=built("a"), host="one")
    second = story.add({"x": P}, built=built("b"), host="two")
    third = story.add({"x": F}, built=built("a"), host="one")
    story.add({}, built=built("c"))
    found = runs.runs(story.history)
    by_kernel = trend.columns(found, "revision")
    assert [(each.title, each.run.id) for each in by_kernel] == [
        ("mine 6.12-b", second.id),
        ("mine 6.12-a", third.id),
    ]
    assert [each.title for each in trend.columns(found, "host")] == ["vng snp two", "vng snp one"]


def test_retention_keeps_counts_sums_and_the_newest_good_run(story: Story) -> None:
    for _ in range(4):
        story.add({"x": P, "y": P}, host="a")
    for _ in range(4):
        story.add([result("x", F, console="oops" * 99), result("y")], host="a")
    days = trend.days(story.history)
    dry = prune.prune(story.history, keep=2, dry_run=True)
    assert (dry.runs, dry.results) == (5, 10)
    assert prune.prune(story.history, keep=2, texts=True).results == 2
    texts = [runs.results(story.history, number)[0].console for number in (5, 6, 7, 8)]
    assert texts == ["", "", "oops" * 99, "oops" * 99]
    done = prune.prune(story.history, keep=2)
    assert (done.runs, done.results) == (5, 10)
    left = [each.id for each in runs.runs(story.history) if not each.pruned]
    assert left == [8, 7, 4]
    assert runs.get(story.history, 1).counts == {Outcome.PASS: 2}
    assert runs.results(story.history, 1) == []
    assert trend.days(story.history) == days
    assert not record.take(story.history, story.folder / "r0").new
    assert prune.prune(story.history, keep=2).runs == 0
    with pytest.raises(UsageError):
        prune.prune(story.history)


# The commands -----------------------------------------------------------------------------


def snptest(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    before, sys.argv = sys.argv, ["snptest", *words]
    try:
        code = main()
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def db(story: Story, monkeypatch: pytest.MonkeyPatch) -> Path:
    story.add({"x": P, "y": P}, built=built("a"))
    story.add({"x": F, "y": P}, built=built("b"))
    monkeypatch.setenv("SNPTEST_HISTORY", str(story.folder / "h.db"))
    return story.folder / "h.db"


def test_the_list(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = snptest(capsys, "history")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["run", "2", "1"]
    assert "1 pass, 1 fail" in out
    code, out, _ = snptest(capsys, "history", "list", "--json", "--kernel", "mine")
    assert [each["verdict"] for each in json.loads(out)] == ["bad", "good"]
    code, out, _ = snptest(capsys, "history", "list", "--kernel", "other")
    assert out == "no run is stored that is so\n"


def test_a_run_shown(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = snptest(capsys, "history", "show")
    assert code == 1
    assert "1 new failure; last good: run 1" in out
    assert "new failure: suites/psc/test_psc.py::test_x[v12]\n    because of x" in out
    assert "release   6.12-b" in out
    code, out, _ = snptest(capsys, "history", "show", "1", "--json")
    assert code == 0
    assert json.loads(out)["tests"] == []


def test_a_test_shown(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = snptest(capsys, "history", "test", "test_x")
    assert code == 0
    assert ".F\n" in out
    assert "1 good, 1 bad" in out
    code, out, _ = snptest(capsys, "history", "test", "test_x", "--json")
    assert [each["outcome"] for each in json.loads(out)[0]["results"]] == ["fail", "pass"]


def test_import_and_prune(db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "new", [result()], 77)
    other = str(tmp_path / "other.db")
    code, out, _ = snptest(capsys, "history", "--db", other, "import", str(tmp_path / "new"))
    assert (code, out) == (0, f"1 runs taken in, 0 known already, 0 unreadable; in {other}\n")
    (tmp_path / "none").mkdir()
    code, out, err = snptest(capsys, "history", "import", "--db", other, str(tmp_path / "none"))
    assert code == 3
    assert "holds no results" in err
    code, out, _ = snptest(capsys, "history", "prune", "--keep", "0", "--dry-run")
    assert out == "2 results of 1 runs would go\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "7"], "the history has no run 7"),
        (["test", "nothing_like_it"], "the history has no test 'nothing_like_it'"),
        (["prune"], "what is to be removed?"),
        (["--db", "/no/such.db", "list"], "there is no history yet: /no/such.db does not exist"),
    ],
)
def test_mistakes_are_one_line(
    db: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    code, _, err = snptest(capsys, "history", *words)
    assert code in (2, 3)
    assert err.startswith(f"snptest: {said}")
    assert "Traceback" not in err
