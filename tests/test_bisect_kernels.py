# SPDX-License-Identifier: GPL-2.0-only
"""Bisections that build what they ask for: trees that only look like kernels, real builds.

A run is judged by what include/kvm.h says in the kernel that was asked for: nothing boots.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness import host_packages, kbuild
from harness.bisect import render, revisions
from harness.bisect.ahead import Ahead
from harness.bisect.bisection import Asked, Bisection, Listener
from harness.bisect.plan import Answer, End
from harness.bisect.revisions import Range
from harness.bisect.state import State
from harness.cli import bisect as command
from harness.errors import BuildError, ResourceError, UsageError
from harness.kbuild import cache
from harness.kbuild.kernel import name_file
from harness.kbuild.tree import KernelTree
from harness.report.outcome import ExitCode, Outcome, Result
from harness.suiterun import SuiteRun
from harness.target import Target
from tests import fakekernel
from tests.mutants.mutant import ROOT, all_mutants

BAD = 100
"""From this value of KVM on, the test fails."""
PROGRESS = kbuild.Progress()
MUTANT = "launch: INIT2 ignores flags"


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    host_packages.ensure_packages(["make", "gcc", "binutils", "git"], "for a test")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache.root()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the tree as its only commit, v1."""
    path = fakekernel.write_tree(tmp_path / "linux")
    fakekernel.git(path, "init", "-q")
    fakekernel.git(path, "add", "-A", "-f")
    fakekernel.git(path, "commit", "-q", "-m", "the tree")
    fakekernel.git(path, "tag", "v1")
    return path


def commit(path: Path, value: str, message: str, file: str = "include/kvm.h") -> str:
    """Commit another value of KVM."""
    (path / file).write_text(f"#define KVM {value}\n")
    fakekernel.git(path, "add", "-A", "-f")
    fakekernel.git(path, "commit", "-q", "-m", message)
    return fakekernel.git(path, "rev-parse", "HEAD")


def series(path: Path, *values: str) -> Path:
    """A folder of patches, each of which sets KVM to the next value."""
    path.mkdir()
    before = "1"
    for number, value in enumerate(values, 1):
        (path / f"{number:04}-x.patch").write_text(
            "From: A Developer <developer@example.org>\n"
            f"Subject: [PATCH {number}/{len(values)}] KVM: now {value}\n\n"
            f"Because of {value}.\n---\n"
            "--- a/include/kvm.h\n+++ b/include/kvm.h\n@@ -1 +1 @@\n"
            f"-#define KVM {before}\n+#define KVM {value}\n"
        )
        before = value
    return path


class Judge:
    """Says of a kernel what its sources say: the place of `snptest run`."""

    def __init__(self) -> None:
        self.words: list[list[str]] = []
        self.interrupt_at = 0

    def __call__(self, words: Sequence[str], listener: Callable[[Result], None]) -> SuiteRun:
        self.words.append(list(words))
        if len(self.words) == self.interrupt_at:
            raise KeyboardInterrupt
        kernel = kbuild.get(words[words.index("--kernel") + 1])
        tree = KernelTree(cache.root() / "linux")
        value = tree.git_bytes("show", f"{kernel.commit}:include/kvm.h").decode().split()[2]
        done = SuiteRun(code=ExitCode.PASSED, header={"folder": f"/results/{len(self.words)}"})
        if value == "13":
            done.broken, done.code = ["the kernel does not boot"], ExitCode.BROKEN
            return done
        bad = int(value) >= BAD
        done.code = ExitCode.FAILED if bad else ExitCode.PASSED
        for name in ("test_x", "test_y"):
            failed = bad and name == "test_x"
            for _ in range(int(words[words.index("--repeat") + 1])):
                result = Result(
                    f"suites/gmem/test_g.py::{name}",
                    "gmem",
                    "merged",
                    Outcome.FAIL if failed else Outcome.PASS,
                    0.4,
                    reason=f"KVM is {value}" if failed else "",
                    console=f"booted \x1b[31m{value}",
                )
                done.results.append(result)
                listener(result)
        return done


def asked(**more: Any) -> Asked:
    return Asked(("gmem",), **more)


def bisected(searched: Range, judge: Judge, **more: Any) -> tuple[Bisection, Answer]:
    with State({"about": searched.about}, restart=more.pop("restart", False)) as state:
        bisection = Bisection(searched, asked(**more), state, Listener(), judge)
        return bisection, bisection.run()


def shown(bisection: Bisection, answer: Answer) -> str:
    output = io.StringIO()
    render.show(Console(file=output, width=80), bisection, answer)
    return output.getvalue()


def of_series(base: Path, folder: Path, good: str | None = None, bad: str | None = None) -> Range:
    return revisions.of_series(f"{base}@v1", [str(folder)], good, bad, [], PROGRESS, print)


def test_a_patch_of_a_series(repository: Path, tmp_path: Path) -> None:
    folder = series(tmp_path / "patches", *(str(n + 90 * (n > 5)) for n in range(2, 14)))
    judge = Judge()
    searched = of_series(repository, folder)
    bisection, answer = bisected(searched, judge)
    assert (answer.end, answer.suspects, answer.edge) == (End.FOUND, (9,), (8,))
    assert len({trial.number for trial in bisection.state.trials}) <= 5
    # Only what fails is followed, in one kernel, several times.
    last = judge.words[-1]
    assert last[0] == "suites/gmem/test_g.py::test_x"
    assert last[last.index("-n") + 1] == "1"
    assert int(last[last.index("--repeat") + 1]) > 1
    text = shown(bisection, answer)
    assert "the first bad one is patch 9 of 12" in text
    assert "Author: A Developer <developer@example.org>" in text
    assert "    KVM: now 100\n\n    Because of 100." in text
    assert "test_x fails" in text
    assert "KVM is 100" in text
    assert "good: patch 8 of 12: KVM: now 99" in text
    assert "\x1b" not in text
    record = render.record(bisection, answer)
    assert record["suspects"][0]["subject"] == "KVM: now 100"
    assert {trial["number"] for trial in record["good"][0]["trials"]} == {8}
    # Kernels that the evidence names are kept, the others' names are not.
    names = {n for n in range(13) if name_file(bisection.kernel_name(n)).exists()}
    assert names == {8, 9}


def test_numbers_of_patches_bound_the_search(repository: Path, tmp_path: Path) -> None:
    folder = series(tmp_path / "patches", "100", "3", "100", "101", "102")
    bisection, answer = bisected(of_series(repository, folder, "2", "4"), Judge())
    revision = bisection.searched.revisions[answer.bad]
    assert revision.title == "patch 3 of 5: KVM: now 100"
    for good, bad, message in (
        ("3", "3", "no patch lies between --good 3 and --bad 3"),
        ("6", None, "--good 6: of a series that is a patch's number, 0 to 5"),
        (None, "v2", "--bad v2: of a series"),
    ):
        with pytest.raises(UsageError, match=message):
            of_series(repository, folder, good, bad)


def test_what_does_not_build_or_boot_is_skipped(repository: Path, tmp_path: Path) -> None:
    folder = series(tmp_path / "patches", "2", "3", "1 +", "13", "100", "101", "102")
    bisection, answer = bisected(of_series(repository, folder), Judge())
    assert (answer.end, answer.suspects, answer.edge) == (End.SEVERAL, (3, 4, 5), (2,))
    text = shown(bisection, answer)
    assert "the first bad one is one of 3: patch 3 of 7, patch 4 of 7, patch 5 of 7" in text
    flat = " ".join(text.split())
    place = (
        r"now 1 \+: no build: the kernel did not build: drivers/\S+\.c:\d+:\d+: error: expected "
    )
    assert re.search(place, flat)
    assert re.search(r"expected [^:]*\(all of it: /\S+/failed/\w+\.log\)", flat)
    assert "not judged: patch 4 of 7: KVM: now 13: the kernel does not boot" in flat


def test_for_want_of_memory_a_patch_is_not_blamed_and_tried_again(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = of_series(repository, series(tmp_path / "patches", "2", "3", "100", "101"))
    real = kbuild.build

    def build(name: str, *words: Any, **options: Any) -> kbuild.KernelBuild:
        if name.endswith("-3"):
            raise ResourceError("the kernel was not built, which is not its fault: Killed")
        return real(name, *words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(kbuild, "build", build)
        bisection, answer = bisected(searched, Judge())
        assert (answer.end, answer.suspects) == (End.SEVERAL, (3, 4))
        assert "not judged: patch 3 of 4" in shown(bisection, answer)
    _, answer = bisected(searched, Judge())
    assert (answer.end, answer.bad) == (End.FOUND, 3)


def test_where_nothing_boots_it_ends(repository: Path, tmp_path: Path) -> None:
    folder = series(tmp_path / "patches", "13")
    for number in range(2, 9):
        (folder / f"{number:04}-x.patch").write_text(
            f"Subject: [PATCH {number}/8] x\n---\n--- /dev/null\n+++ b/new{number}.c\n"
            f"@@ -0,0 +1 @@\n+int x{number};\n"
        )
    searched = of_series(repository, folder)
    with pytest.raises(BuildError, match="3 revisions were built, and none could be run"):
        bisected(searched, Judge())
    with State({"about": searched.about}) as state:
        assert state.trials == []


def test_commits_of_a_range_with_a_merge(repository: Path) -> None:
    commit(repository, "2", "two")
    fakekernel.git(repository, "checkout", "-q", "-b", "topic", "v1")
    wanted = commit(repository, "5", "topic: another file", "include/other.h")
    (repository / "include/kvm.h").write_text("#define KVM 200 // topic\n")
    fakekernel.git(repository, "commit", "-q", "-a", "-m", "topic: break it\n\nIt is so.")
    culprit = fakekernel.git(repository, "rev-parse", "HEAD")
    fakekernel.git(repository, "checkout", "-q", "main")
    fakekernel.git(repository, "merge", "-q", "-X", "theirs", "--no-edit", "topic")
    commit(repository, "300", "three")
    searched = revisions.of_git(str(repository), "v1", None, [])
    assert len(searched.revisions) == 6
    bisection, answer = bisected(searched, Judge())
    found = bisection.searched.revisions[answer.bad]
    assert (answer.end, found.commit, found.subject) == (End.FOUND, culprit, "topic: break it")
    assert found.message == "It is so."
    assert [bisection.searched.revisions[each].commit for each in answer.edge] == [wanted]


def test_what_is_no_range_is_told(repository: Path, tmp_path: Path) -> None:
    commit(repository, "2", "two")
    fakekernel.git(repository, "checkout", "-q", "-b", "side", "v1")
    commit(repository, "3", "side")
    for base, good, bad, message in (
        (str(repository), None, None, "which revision is good"),
        (str(repository), "side", "main", "no ancestor of --bad main"),
        (str(repository), "v1", "v1", "no commit lies between v1 and v1"),
        (str(repository), "v1", "v9", "git knows no revision v9"),
        (str(tmp_path), "v1", None, "no git repository"),
    ):
        with pytest.raises(UsageError, match=message):
            revisions.of_git(base, good, bad, [])


def test_it_goes_on_where_it_was_interrupted(repository: Path, tmp_path: Path) -> None:
    folder = series(tmp_path / "patches", *(str(n + 90 * (n > 5)) for n in range(2, 14)))
    searched = of_series(repository, folder)
    straight = Judge()
    bisected(searched, straight)
    for path in (cache.root() / "bisect").glob("*.json"):
        path.unlink()
    asked_of: list[list[str]] = []
    for at in (2, 2, 0):
        judge = Judge()
        judge.interrupt_at = at
        if at:
            with pytest.raises(KeyboardInterrupt):
                bisected(searched, judge)
            judge.words.pop()
        else:
            _, answer = bisected(searched, judge)
            assert answer.suspects == (9,)
        asked_of += judge.words
    assert asked_of == straight.words


# Building ahead -------------------------------------------------------------------------


def test_what_comes_next_is_built_meanwhile(repository: Path, tmp_path: Path) -> None:
    folder = series(tmp_path / "patches", "2", "1 +", "4")
    searched = of_series(repository, folder)
    requests = [{"name": f"a{n}", **searched.revisions[n].request} for n in range(4)]
    with Ahead() as ahead:
        ahead.want([requests[2], requests[3]])
        deadline = time.monotonic() + 120
        while not ahead.has_begun(requests[3]) and time.monotonic() < deadline:
            time.sleep(0.01)
        ahead.settle(requests[3])
        assert not ahead.has_begun(requests[3])
        assert kbuild.get("a3").commit == searched.revisions[3].commit
        with pytest.raises(UsageError):
            kbuild.get("a2")  # it does not compile
        # What was built is not built again.
        ahead.want([requests[3]])
        ahead.settle(requests[3])
        assert not ahead.has_begun(requests[3])


def test_a_build_that_nobody_wants_is_ended(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makefile = repository / "Makefile"
    pid = tmp_path / "pid"
    slow = f"\t@echo $$$$ > {pid}; sleep 1000\n"
    rule = "$(O)/vmlinux: init/main.c\n"
    makefile.write_text(makefile.read_text().replace(rule, rule + slow))
    fakekernel.git(repository, "commit", "-q", "-a", "-m", "slow")
    fakekernel.git(repository, "tag", "-f", "v1")
    monkeypatch.setattr("harness.bisect.ahead.PATIENCE", 0.5)
    searched = of_series(repository, series(tmp_path / "patches", "2", "3"))
    with Ahead() as ahead:
        ahead.want([{"name": "slow", **searched.revisions[1].request}])
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text().strip()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ahead.settle({"name": "other", **searched.revisions[2].request})
    running = Path("/proc", pid.read_text().strip(), "stat")
    deadline = time.monotonic() + 20
    while running.exists() and running.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "make still runs"
        time.sleep(0.05)


# The commands ---------------------------------------------------------------------------


def options(*tests: str, backend: str = "vng", **more: Any) -> command.BisectOptions:
    return command.BisectOptions(Target(backend), tests or ("gmem",), **more)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    found = Judge()
    init = Bisection.__init__
    monkeypatch.setattr(init, "__defaults__", (found,))
    monkeypatch.setattr("harness.suiterun.run", lambda words: found(words, lambda result: None))
    return found


def test_the_command(
    repository: Path, tmp_path: Path, judge: Judge, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = series(tmp_path / "patches", "2", "3", "100")
    wanted = options(
        base=f"{repository}@v1", series=(str(folder),), json=tmp_path / "out" / "answer.json"
    )
    assert command.bisect(wanted) == 0
    text = capsys.readouterr().out
    assert "step 1 (about" in text
    assert "the first bad one is patch 3 of 3" in text
    assert '"end": "found"' in (tmp_path / "out/answer.json").read_text()
    runs = len(judge.words)
    assert command.bisect(wanted) == 0
    assert f"found before, in {runs} runs" in capsys.readouterr().out
    assert len(judge.words) == runs
    good = options(base=f"{repository}@v1", series=(str(folder),), bad="2")
    assert command.bisect(good) == 3
    assert "patch 2 of 3 is not bad" in capsys.readouterr().out


def test_a_patch_edited_meanwhile_is_another_question(
    repository: Path, tmp_path: Path, judge: Judge, capsys: pytest.CaptureFixture[str]
) -> None:
    one = series(tmp_path / "patches", "2", "3", "100")
    assert command.bisect(options(base=f"{repository}@v1", series=(str(one),))) == 0
    for path in one.iterdir():
        path.unlink()
    one.rmdir()
    series(tmp_path / "patches", "2", "100", "101")
    capsys.readouterr()
    assert command.bisect(options(base=f"{repository}@v1", series=(str(one),))) == 0
    text = capsys.readouterr().out
    assert "found before" not in text
    assert "the first bad one is patch 2 of 3" in text


def test_only_what_boots_kernels_of_ours_can_bisect(repository: Path) -> None:
    with pytest.raises(UsageError, match="backend emulator boots no kernel that was built here"):
        command.bisect(options(base=str(repository), good="v1", backend="emulator"))


def test_steps_of_git_s_own_bisection(repository: Path, judge: Judge) -> None:
    codes = {}
    for value in ("2", "100", "1 +", "13"):
        commit(repository, value, f"now {value}")
        codes[value] = command.step(options(base=str(repository)))
    assert codes == {"2": 0, "100": 1, "1 +": 125, "13": 125}
    assert command.step(options(base="/nowhere")) == 128
    assert command.step(options(base=str(repository), backend="nonsense")) == 128


def test_what_is_wrong_with_us_is_not_bad(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(words: Sequence[str]) -> SuiteRun:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("harness.suiterun.run", broken)
    assert command.step(options(base=str(repository))) > 128
    assert "a bug of ours" in capsys.readouterr().err

    def interrupted(words: Sequence[str]) -> SuiteRun:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.suiterun.run", interrupted)
    assert command.step(options(base=str(repository))) > 128


@pytest.mark.parametrize(
    ("words", "code"), [(["--nonsense"], 128), ([], 128), (["gmem", "--runs", "0"], 128)]
)
def test_usage_ends_a_bisection(words: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness", "bisect-step", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr


def test_git_bisect_run_finds_it(tmp_path: Path) -> None:
    """Eight commits to the emulator, of which the sixth breaks it: as a maintainer of it would."""
    [mutant] = [each for each in all_mutants() if each.name == MUTANT]
    folder = tmp_path / "copy"
    folder.mkdir()
    mutant.plant(folder)
    broken = (folder / mutant.file).read_text()
    (folder / mutant.file).write_text((ROOT / mutant.file).read_text())
    fakekernel.git(folder, "init", "-q")
    for number in range(9):
        (folder / "number").write_text(str(number))
        if number == 6:
            (folder / mutant.file).write_text(broken)
        fakekernel.git(folder, "add", "-A", "-f")
        fakekernel.git(folder, "commit", "-q", "-m", f"number {number}")
    fakekernel.git(folder, "bisect", "start", "HEAD", "HEAD~8")
    [test] = mutant.tests[:1]
    words = ["-m", "harness", "bisect-step", test, "--backend", "emulator", "-n", "1"]
    done = subprocess.run(
        ["git", "bisect", "run", sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    found = re.search(r"^(\w{40}) is the first bad commit", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    assert fakekernel.git(folder, "show", "-s", "--format=%s", found[1]) == "number 6"
