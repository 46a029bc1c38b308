# SPDX-License-Identifier: GPL-2.0-only
"""Outcomes, crashes, deadlines and reopened kernels, seen through whole runs of pytest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from harness.deadline import deadline
from harness.operations import TargetTimeoutError
from harness.places import ROOT
from harness.report.outcome import Outcome
from harness.runner import Run

FAKE_BACKEND = """
from typing import Any
from harness import backends
from harness.backends.base import Backend
from harness.kernel import Kernel
from harness.operations import TargetError

opened = []

class FakeKernel(Kernel):
    name = "fake"

    def __init__(self, interface):
        self.interface, self.text, self.down = interface, "", False

    def start(self, ops, *, thread=0): raise NotImplementedError
    def wait(self, ticket, timeout=30.0): raise NotImplementedError
    def wait_any(self, tickets, timeout=30.0): raise NotImplementedError
    def interrupt(self, thread): raise NotImplementedError

    def log(self):
        if self.text is None:
            raise TargetError("no console")
        return self.text

    def shutdown(self): self.down = True

class FakeBackend(Backend):
    name = "fake"
    interfaces = ("v12", "merged")

    def open(self, target, parameters=None):
        kernel = FakeKernel(target.interface)
        opened.append(kernel)
        return kernel

backends.BACKENDS["fake"] = "conftest_fake:FakeBackend"
"""

OUTCOMES = r'''
import os, time
import pytest
from harness.errors import UserError
from harness.operations import Ioctl, OperationError, Result, TargetError

@pytest.mark.patches(10, 11)
@pytest.mark.areas("psc")
def test_pass():
    """Two is two. And this is not in the report."""

def test_fail():
    print("\x1b[31mgarbage \x00\x08 \udcff")
    assert 1 == 2, "got \x00 and \x1b[31mred\x85"

def test_raise(): raise RuntimeError("wrong")
def test_crash(): raise TargetError("the kernel died")
def test_skip(): pytest.skip("no SNP here")
@pytest.mark.xfail(reason="lost wake-up")
def test_known(): assert False
@pytest.mark.xfail(reason="lost wake-up")
def test_gone(): pass

@pytest.fixture
def broken(): raise RuntimeError("harness bug")
def test_error(broken): pass

@pytest.fixture
def lacking(): raise UserError("no such kernel", "build it")
def test_user_error(lacking): pass

@pytest.fixture
def refused(): raise OperationError(Ioctl(3, 7), Result(-1, 22))
def test_refused(refused): pass

@pytest.fixture
def leaking():
    yield
    assert not "leaked pages"
def test_teardown(leaking): pass

@pytest.mark.deadline(0.4)
def test_hang(): time.sleep(60)
'''

WANTED = {
    "test_pass": Outcome.PASS,
    "test_fail": Outcome.FAIL,
    "test_raise": Outcome.FAIL,
    "test_crash": Outcome.CRASH,
    "test_skip": Outcome.SKIP,
    "test_known": Outcome.XFAIL,
    "test_gone": Outcome.FAIL,
    "test_error": Outcome.ERROR,
    "test_user_error": Outcome.ERROR,
    "test_refused": Outcome.FAIL,
    "test_teardown": Outcome.FAIL,
    "test_hang": Outcome.CRASH,
}


def execute(folder: Path, source: str, *arguments: str, workers: int = 0) -> Run:
    """Run a suite made of one module, the way `snptest run` does."""
    suite = folder / "suites" / "made"
    suite.mkdir(parents=True)
    (folder / "conftest_fake.py").write_text(FAKE_BACKEND)
    (folder / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(folder)!r})\nimport conftest_fake\n"
        "pytest_plugins = ('harness.plugin',)\n"
    )
    (folder / "pytest.ini").write_text("[pytest]\nxfail_strict = true\n")
    (suite / "test_made.py").write_text(textwrap.dedent(source), encoding="utf-8")
    spread = ["-n", str(workers), "--dist=loadscope"] if workers else ["-p", "no:xdist"]
    where = [f"--rootdir={folder}", f"--config-file={folder / 'pytest.ini'}", str(suite)]
    options = ["-p", "no:cacheprovider", "--backend=fake", "--continue-on-collection-errors"]
    run = Run([*where, *options, *spread, *arguments], folder / "out", silence=60)
    run.execute(lambda event: None)
    return run


def outcomes(run: Run) -> dict[str, Outcome]:
    return {result.id.rpartition("::")[2]: result.outcome for result in run.results}


@pytest.mark.parametrize("workers", [0, 2])
def test_every_outcome_is_told_apart(tmp_path: Path, workers: int) -> None:
    run = execute(tmp_path, OUTCOMES, workers=workers)
    assert outcomes(run) == WANTED, run.log.read_text()
    assert run.broken == []
    assert run.collected == len(WANTED)
    by_name = {result.id.rpartition("::")[2]: result for result in run.results}
    passed = by_name["test_pass"]
    assert passed.description == "Two is two."
    assert (passed.suite, passed.patches, passed.areas) == ("made", (10, 11), ("psc",))
    failed = by_name["test_fail"]
    assert failed.reason == "1: 1, want 2 (got \\x00 and red\\x85)"
    assert "garbage \\x00\\x08" in failed.output
    assert "did not end within 0.4 s" in by_name["test_hang"].reason
    assert by_name["test_user_error"].reason == "no such kernel (build it)"
    assert "Traceback" not in by_name["test_user_error"].details


DYING = """
    import os, signal
    def test_before(): pass
    def test_dies(): os.kill(os.getpid(), signal.SIGKILL)
    def test_between(): pass
    def test_dies_too(): os._exit(0)
    def test_after(): pass
"""


def test_a_worker_that_dies_takes_nothing_with_it(tmp_path: Path) -> None:
    run = execute(tmp_path, DYING, workers=1)
    assert outcomes(run) == {
        "test_before": Outcome.PASS,
        "test_dies": Outcome.ERROR,
        "test_between": Outcome.PASS,
        "test_dies_too": Outcome.CRASH,
        "test_after": Outcome.PASS,
    }
    assert run.broken == []
    killed = next(result for result in run.results if result.id.endswith("test_dies"))
    assert "killed from outside (out of memory?)" in killed.reason


STOPPED = """
    import os, subprocess, sys, time
    import pytest
    from harness import standstill
    standstill.GAP = 2.0

    @pytest.mark.deadline(3)
    def test_stopped():
        pids = PIDS
        script = f"sleep 1; kill -STOP {pids}; sleep 5; kill -CONT {pids}"
        subprocess.Popen(["sh", "-c", script])
        time.sleep(60)

    def test_after(): pass
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_is_stopped_and_goes_on_blames_no_kernel(tmp_path: Path, workers: int) -> None:
    """Ctrl-Z and fg: the deadline has passed meanwhile, for the test and for who watches it."""
    pids = "f'{os.getpid()} {os.getppid()}'" if workers else "str(os.getpid())"
    run = execute(tmp_path, STOPPED.replace("PIDS", pids), workers=workers)
    assert outcomes(run) == {"test_stopped": Outcome.ERROR, "test_after": Outcome.PASS}
    reason = next(result.reason for result in run.results if "stopped" in result.id)
    assert "snptest itself stood still for" in reason
    assert run.broken == []


def test_a_run_that_is_stopped_is_not_given_up(tmp_path: Path) -> None:
    """What counts of a silence are the seconds in which it was listened to."""
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", LISTENER, str(reading)], pass_fds=[reading], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(6)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.2)
        os.write(writing, b"x")
        assert process.stdout.read() == b"heard\n"
    os.close(reading)
    os.close(writing)


LISTENER = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from harness import standstill
print("listening", flush=True)
print("heard" if standstill.readable(int(sys.argv[1]), 5.0) else "silence", flush=True)
"""


def test_text_that_is_no_unicode_ends_no_worker(tmp_path: Path) -> None:
    """A lone surrogate, as of a file's name, was a crash of that test and of those beside it."""
    run = execute(tmp_path, SURROGATE, workers=1)
    assert outcomes(run) == {"test_surrogate": Outcome.FAIL, "test_after": Outcome.PASS}
    assert "udcff" in next(each.reason for each in run.results if "surrogate" in each.id)
    assert run.broken == []


SURROGATE = r"""
def test_surrogate():
    assert False, "the kernel said \udcff"

def test_after():
    pass
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_ends_a_run_in_the_background_of_a_script(tmp_path: Path, workers: int) -> None:
    """There SIGINT is ignored, and that was inherited by what was to end by it."""
    waiting = tmp_path / "waiting"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end() -> None:
        while not waiting.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=end, daemon=True)
    watcher.start()
    try:
        run = execute(tmp_path, WAITING.replace("WAITING", str(waiting)), workers=workers)
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.interrupted
    assert outcomes(run) == {}
    assert run.broken == []


WAITING = """
import pathlib, time

def test_waits():
    pathlib.Path("WAITING").touch()
    time.sleep(12)
"""


def test_a_pytest_that_dies_is_told(tmp_path: Path) -> None:
    run = execute(tmp_path, DYING)
    assert outcomes(run) == {"test_before": Outcome.PASS}
    assert len(run.broken) == 1
    assert "status -9" in run.broken[0]


def test_what_cannot_be_imported_is_an_error(tmp_path: Path) -> None:
    run = execute(tmp_path, "import no_such_module\n", workers=2)
    assert [result.outcome for result in run.results] == [Outcome.ERROR]
    assert "no_such_module" in run.results[0].reason


KERNELS = """
    import pytest
    from harness.operations import TargetError
    import conftest_fake

    @pytest.fixture(scope="module")
    def shared(kernel):
        return kernel

    def test_a_uses(shared, kernel):
        assert shared is kernel and not kernel.down
        assert len([k for k in conftest_fake.opened if k.interface == kernel.interface]) == 1

    def test_b_kills(kernel):
        kernel.text = "[1.0] last words \\x00\\n"
        raise TargetError("the kernel died")

    def test_c_has_another(shared, kernel):
        assert shared is kernel and not kernel.down
        assert len([k for k in conftest_fake.opened if k.interface == kernel.interface]) == 2

    @pytest.fixture
    def dies_late(kernel):
        yield
        kernel.text = None
        raise TargetError("died in the teardown")

    def test_d_dies_late(dies_late): pass

    def test_e_has_a_third(kernel):
        assert not kernel.down
        assert len([k for k in conftest_fake.opened if k.interface == kernel.interface]) == 3

    def test_f_warns(kernel):
        kernel.text += "[    2.000000] WARNING: CPU: 0 PID: 1 at sev.c:1\\n"

    def test_g_is_not_blamed_for_it(kernel):
        assert "WARNING" in kernel.text
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dead_kernel_is_replaced(tmp_path: Path, workers: int) -> None:
    run = execute(tmp_path, KERNELS, workers=workers)
    wanted = {
        "test_a_uses": Outcome.PASS,
        "test_b_kills": Outcome.CRASH,
        "test_c_has_another": Outcome.PASS,
        "test_d_dies_late": Outcome.CRASH,
        "test_e_has_a_third": Outcome.PASS,
        "test_f_warns": Outcome.FAIL,
        "test_g_is_not_blamed_for_it": Outcome.PASS,
    }
    both = {f"{name}[{rev}]": each for name, each in wanted.items() for rev in ("v12", "merged")}
    assert outcomes(run) == both, [result.details for result in run.results]
    killed = next(result for result in run.results if "b_kills" in result.id)
    assert killed.console == "[1.0] last words \\x00\n"
    assert killed.interface in ("v12", "merged")


OWN = """
    import pytest
    import conftest_fake
    from harness.kernel import Death
    from harness.operations import TargetError

    conftest_fake.FakeBackend.reusable = True
    seen = []

    @pytest.fixture
    def fresh(boot):
        return boot(own=True, crashkernel="256M").kernel

    def test_first(kernel, fresh):
        seen.append(fresh)
        assert fresh is not kernel

    def test_second(kernel, fresh, boot):
        assert seen[0].down and not fresh.down and not kernel.down
        assert boot(own=True, crashkernel="256M").kernel not in (fresh, kernel)

    def test_dies(kernel, fresh):
        kernel.autopsy = lambda: Death("stuck call", "it answers")
        fresh.autopsy = lambda: Death("panic", "of this")
        raise TargetError("lost")

    def test_others_share(kernel, boot):
        seen.append(boot(sev_es=False).kernel)

    def test_it(kernel, boot):
        assert boot(sev_es=False).kernel is seen[-1] and not seen[-1].down
"""


def test_a_test_may_have_a_kernel_of_its_own(tmp_path: Path) -> None:
    run = execute(tmp_path, OWN, "--interface=v12")
    assert outcomes(run) == {
        "test_first[v12]": Outcome.PASS,
        "test_second[v12]": Outcome.PASS,
        "test_dies[v12]": Outcome.CRASH,
        "test_others_share[v12]": Outcome.PASS,
        "test_it[v12]": Outcome.PASS,
    }, [each.details for each in run.results]
    died = next(each for each in run.results if each.outcome is Outcome.CRASH)
    assert died.reason == "panic: of this"


REPEATED = """
    import pytest
    from harness.operations import TargetError
    import conftest_fake

    made = []

    @pytest.fixture(scope="module")
    def shared(kernel):
        made.append("shared")
        return kernel

    @pytest.fixture
    def own():
        made.append("own")

    def test_flaky(shared, own):
        assert len(conftest_fake.opened) == made.count("shared")
        if made.count("own") == 2:
            raise TargetError("the kernel died")
        assert made.count("own") != 4

    def test_after(shared):
        assert not shared.down and made.count("own") == 5
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_test_can_be_repeated(tmp_path: Path, workers: int) -> None:
    run = execute(tmp_path, REPEATED, "--repeat=5", "--interface=v12", workers=workers)
    seen = [result.outcome for result in run.results if "flaky" in result.id]
    good, bad = Outcome.PASS, Outcome.FAIL
    assert seen == [good, Outcome.CRASH, good, bad, good], [each.details for each in run.results]
    assert [each.outcome for each in run.results if "after" in each.id] == [good] * 5
    assert run.collected == 10


def test_one_interface_can_be_chosen(tmp_path: Path) -> None:
    run = execute(tmp_path, "def test_x(interface): pass\n", "--interface=v12")
    assert outcomes(run) == {"test_x[v12]": Outcome.PASS}


def test_seeds_repeat_and_differ(tmp_path: Path) -> None:
    source = """
        import pathlib
        def test_x(seed, rng): pathlib.Path({0!r}).open("a").write(f"{{seed}} {{rng.random()}}\\n")
        def test_y(seed, rng): pathlib.Path({0!r}).open("a").write(f"{{seed}} {{rng.random()}}\\n")
    """
    written = []
    for number, seed in enumerate((5, 5, 6)):
        path = tmp_path / f"seeds{number}"
        execute(tmp_path / str(number), source.format(str(path)), f"--seed={seed}")
        written.append(path.read_text())
    assert written[0] == written[1] != written[2]
    assert len(set(written[0].splitlines())) == 2


def test_plain_pytest_knows_the_options(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile("def test_x(target): assert target.seed == 7")
    results = pytester.path / "r.jsonl"
    done = pytester.runpytest_subprocess(
        "-p", "harness.plugin", "--seed=7", f"--results={results}", "--strict-markers"
    )
    done.assert_outcomes(passed=1)
    events = [json.loads(line)["event"] for line in results.read_text().splitlines()]
    assert events == ["start", "collected", "begin", "result", "finish"]


def test_root_of_the_tree_is_found() -> None:
    assert os.access(ROOT / "snptest", os.X_OK)


def test_a_deadline_inside_another_leaves_the_outer_one_on() -> None:
    began = time.monotonic()
    with pytest.raises(TargetTimeoutError, match="outer"), deadline(0.5, "outer"):
        with deadline(30, "inner"):
            time.sleep(0.1)
        time.sleep(30)
    assert time.monotonic() - began < 20
