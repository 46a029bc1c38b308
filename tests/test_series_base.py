# SPDX-License-Identifier: GPL-2.0-only
"""A series and its base: what it names, what has changed since, and `build --dry-run`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from harness import kbuild
from harness.cli import main as command_line
from harness.cli import nightly
from harness.errors import BuildError, UsageError
from harness.kbuild import cache
from harness.kbuild.tree import KernelTree
from harness.nightly.schedule import Revision, Schedule
from tests.fakekernel import git
from tests.thread_mails import (
    CASES,
    FILE,
    commit_with,
    diff,
    mail,
    make_tree,
    thread,
    write_mbox,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The toy tree."""
    return make_tree(tmp_path / "toy")


@pytest.fixture
def topic(toy: Path, tmp_path: Path) -> Path:
    """Two patches for v2, which has another line beside the first's; base-commit says so."""
    commit_with(toy, 18, "int new", "the base of the topic")
    git(toy, "tag", "v2")
    commit_with(toy, 20, "int p1", "one")
    commit_with(toy, 60, "int p2", "two")
    folder = tmp_path / "topic"
    git(toy, "branch", "topic")
    git(toy, "format-patch", "-q", "-2", "--base=v2", "--cover-letter", "-o", str(folder))
    return folder


def plan(base: str, series: Path | str, said: list[str] | None = None) -> kbuild.Plan:
    lines = said if said is not None else []
    return kbuild.plan("mine", base, str(series), say=lines.append)


def last_of(base: str, series: Path | str, said: list[str]) -> dict[int, str]:
    """Apply a series; return the lines of the toy's file."""
    states = kbuild.applied(base, str(series), say=said.append)
    tree = KernelTree(cache.root() / "linux")
    text = tree.git("show", f"{states[-1][0]}:{FILE}")
    assert "<<<<" not in text
    return dict(enumerate(text.splitlines(), 1))


def test_context_that_changed_is_merged_and_said(toy: Path, topic: Path) -> None:
    """The blob of v2 is in the repository that the base is of; v1 has other lines there."""
    said: list[str] = []
    lines = last_of(f"{toy}@base", topic, said)
    assert (lines[18], lines[20], lines[60]) == (
        "int line18(void);",
        "int line20(int p1);",
        "int line60(int p2);",
    )
    assert [line for line in said if "three-way" in line] == [
        "0001-one.patch is applied by a three-way merge: its context differs in the base"
    ]
    said.clear()
    last_of(f"{toy}@v2", topic, said)
    assert not any("three-way" in line for line in said)


def test_without_the_blobs_it_does_not_apply(toy: Path, topic: Path, tmp_path: Path) -> None:
    """As from a tarball, or a clone that lacks the commit; the hint says what the base is."""
    other = make_tree(tmp_path / "other")
    named = git(toy, "rev-parse", "v2")[:12]
    for base, hint in (
        (f"{other}@base", f"the series names base {named}, which {other} does not have"),
        (str(other), f"the series names base {named}, which {other} does not have"),
    ):
        with pytest.raises(BuildError) as caught:
            last_of(base, topic, [])
        assert caught.value.message.startswith(
            f"0001-one.patch does not apply: {FILE}, hunk 1 of 1 (@@ -17,7 +17,7 @@"
        )
        assert caught.value.hint == hint
    shutil.rmtree(other / ".git")
    with pytest.raises(BuildError) as caught:
        last_of(str(other), topic, [])
    assert caught.value.hint == (
        f"the series names base {named}: --base PATH@{named}, a repository with it"
    )


def test_a_conflict_is_an_error_that_names_file_and_hunk(toy: Path, topic: Path) -> None:
    git(toy, "checkout", "-q", "-b", "side", "base")
    commit_with(toy, 20, "char other", "a conflict")
    named = git(toy, "rev-parse", "v2")[:12]
    with pytest.raises(BuildError) as caught:
        last_of(f"{toy}@side", topic, [])
    assert caught.value.message.startswith(f"0001-one.patch does not apply: {FILE}, hunk 1 of 1")
    assert caught.value.message.endswith(f"; by a three-way merge: conflict in {FILE}")
    assert caught.value.hint == f"the series names base {named}: --base {toy}@{named} has it"


def test_what_the_base_has_already_is_said(toy: Path, topic: Path) -> None:
    said: list[str] = []
    lines = last_of(f"{toy}@topic", topic, said)
    assert lines[20] == "int line20(int p1);"
    assert "0001-one.patch changes nothing: the base has all of it already" in said


def test_a_partial_clone_is_not_fetched_into(toy: Path, topic: Path, tmp_path: Path) -> None:
    """What a merge would need is not there, and not got by way of the network."""
    git(toy, "config", "uploadpack.allowFilter", "true")
    git(toy, "config", "uploadpack.allowAnySHA1InWant", "true")
    clone = tmp_path / "partial"
    git(tmp_path, "clone", "-q", "--filter=blob:none", toy.as_uri(), str(clone))
    git(clone, "checkout", "-q", "base")
    git(toy, "format-patch", "-q", "-2", "--full-index", "-o", str(topic))  # any may be asked for
    before = git(clone, "count-objects", "-v")
    with pytest.raises(BuildError, match="does not apply"):
        last_of(str(clone), topic, [])
    assert git(clone, "count-objects", "-v") == before


def test_the_base_that_a_series_names_is_taken(
    toy: Path, topic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = git(toy, "rev-parse", "v2")
    for base in (f"{toy}@auto", f"{toy.as_uri()}@auto"):
        found = plan(base, topic)
        assert (found.commit, found.named) == (named, named)
        assert found.base == f"{base.removesuffix('@auto')}@{named}"
    assert kbuild.plan("x", str(toy), str(topic), revision="auto", say=print).commit == named
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="of which repository") as caught:
        plan("auto", topic)
    assert "--base PATH@auto" in caught.value.hint
    monkeypatch.chdir(toy)
    assert plan("auto", topic).commit == named
    # A range says where it begins.
    found = plan("auto", f"{toy}:v2..HEAD")
    assert (found.commit, len(found.patches)) == (named, 2)
    assert plan(f"{toy}@auto", "v2..HEAD").commit == named


def test_a_base_that_cannot_be_found_is_told(toy: Path, topic: Path, tmp_path: Path) -> None:
    other = make_tree(tmp_path / "other")
    named = git(toy, "rev-parse", "v2")[:12]
    for base, series, complaint in (
        (f"{other}@auto", topic, f"the series names {named}, which {other} does not have"),
        (f"{tmp_path}@auto", topic, "is no git repository"),
        (f"{toy}@auto", CASES / "raw-crlf.diff", "the series names no base"),
    ):
        with pytest.raises(UsageError, match=complaint):
            plan(base, series)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["snptest", *words])
    try:
        return command_line.main()
    except SystemExit as end:
        return int(end.code or 0)


def test_a_dry_run_lists_and_stops(
    toy: Path, topic: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kbuild, "ensure_packages", None)  # nothing is asked for
    words = ["build", "mine", "--base", f"{toy}@auto", "--series", str(topic), "--dry-run"]
    assert run(monkeypatch, *words) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    named = git(toy, "rev-parse", "v2")
    assert lines[0] == ["base:", f"{toy}@{named}", f"({named[:12]})"]
    assert " ".join(lines[1]) == f"the series names base {named[:12]}, this one"
    assert " ".join(lines[2]) == "2 patches (v1), applied in this order:"
    assert lines[4] == ["1", "one", "A", "Developer", "<developer@example.org>"]
    assert lines[5][:2] == ["2", "two"]
    assert not (cache.root() / "kernels").exists()


@pytest.mark.parametrize(
    ("case", "complaint"),
    [
        ("missing.mbox", "snptest: missing.mbox: 2/3 of v1 is missing: series"),
        ("gone.mbox", "gone.mbox does not exist"),
        ("topic", "snptest: 0001-one.patch does not apply"),
    ],
)
def test_a_dry_run_of_what_is_wrong_ends_with_two(
    toy: Path,
    topic: Path,
    tmp_path: Path,
    case: str,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = make_tree(tmp_path / "other")
    series = topic if case == "topic" else CASES / case
    words = ["build", "mine", "--base", f"{base}@base", "--series", str(series), "--dry-run"]
    assert run(monkeypatch, *words) == 2
    first, hint = capsys.readouterr().err.splitlines()[-2:]
    assert complaint in first
    assert hint.startswith("  hint: ")
    if case == "topic":  # without --dry-run it is the build that fails
        assert run(monkeypatch, *words[:-1]) == 3


def test_a_dry_run_does_not_wait_for_a_build(toy: Path, topic: Path) -> None:
    """A kernel that compiles holds the cache for minutes; commits can be made meanwhile."""
    said: list[str] = []
    with cache.locked(said.append):
        assert plan(f"{toy}@auto", topic, said).patches
    assert not [line for line in said if "waiting" in line]


def test_notes_are_said_as_they_are(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets of subjects are no markup."""
    monkeypatch.setattr(kbuild, "ensure_packages", None)
    other = mail(
        "net-next", "x@example.org", "a1@example.org", title="[kvm] other", body=diff(80, "int"),
        sender="B <b@example.org>",
    )  # fmt: skip
    box = write_mbox(tmp_path / "box", [*thread("PATCH", 3, "a"), other])
    words = ["build", "mine", "--base", f"{toy}@base", "--series", str(box), "--dry-run"]
    assert run(monkeypatch, *words) == 0
    assert "box: not taken: other (1 patch)" in capsys.readouterr().err


def test_a_night_says_what_was_decided(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody watches it: the version that was taken must stand in its log."""

    def planned(name: str, base: str, series: list[str], **others: object) -> None:
        say = others["say"]
        assert callable(say)
        kbuild.plan(name, base, series, say=say)

    monkeypatch.setattr(kbuild, "build", planned)
    series = (str(CASES / "v1v2.mbox"),)
    revision = Revision("topic", base=f"{toy}@base", series=series)
    with nightly._Display(Console(width=80), Schedule("n", {}, {}, ())) as display:
        assert display.build(revision) == "nightly-topic"
    said = "topic: v1v2.mbox: v2 is taken, the newest; there is also v1 (c@x.org)"
    assert said in capsys.readouterr().out.splitlines()
