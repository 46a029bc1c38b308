# SPDX-License-Identifier: GPL-2.0-only
"""The command line as a user meets it: help, mistakes, exit codes, reports where asked for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from harness import backends
from harness.cli import bench, check
from harness.cli import run as run_command
from harness.cli.main import main
from harness.errors import UsageError, UserError
from harness.kbuild.cli import BuildOptions
from harness.places import ROOT

INTERFACES = len(backends.get("emulator").interfaces)
"""How often `run` runs a test that needs none in particular."""

COMMANDS = (
    "run",
    "check",
    "bench",
    "doctor",
    "build",
    "kernels",
    "known-issues",
    "history",
    "guest",
    "report",
)


def snptest(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process: code, stdout, stderr."""
    before = sys.argv
    sys.argv = ["snptest", *arguments]
    try:
        code = main()
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = snptest(capsys, command, "--help")
    assert code == 0
    assert "Usage: snptest " + command in out


def test_version_names_the_revision_of_the_checkout(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = snptest(capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"snptest \d+\.\d+\.\d+ \([0-9a-f]{7,12}(-dirty)?\)\n", out)


def test_help_teaches_with_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = snptest(capsys, "--help")
    assert code == 0
    assert "snptest run psc gmem --interface v12" in out
    assert "Exit codes: 0 all passed" in out
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "no_such_suite"], "no suite is called 'no_such_suite'"),
        (["run", "--backend", "ssh"], "--backend ssh needs --host NAME"),
        (["run", "--backend", "ssh", "--host", "a"], "no host is called 'a'"),
        (["run", "--host", "a"], "no host is called 'a'"),
        (["kselftest", "--backend", "ssh"], "they are not copied to hosts yet"),
        (["run", "--backend", "ssh", "--host", "a@b", "-n", "2"], "one kernel at a time"),
        (["run", "--backend", "qemu"], "no backend is called 'qemu'"),
        (["run", "--interface", "v9"], "does not offer interface 'v9'"),
        (["run", "-n", "many"], "-n takes a number or auto, not 'many'"),
        (["run", "--junit", "/proc/nope/j.xml"], "cannot write /proc/nope/j.xml"),
        (["run", "--json", "/"], "/ is a directory"),
        (["run", "--no-such-option"], "No such option"),
        (["bench", "--json", "/proc/nope/f.json"], "cannot write /proc/nope/f.json"),
        (["bench", "--json", "/"], "/ is a directory"),
        (["bisect", "psk", "--series", "/"], "no suite is called 'psk'"),
        (["bisect", "psc", "--series", "/", "--json", "/"], "/ is a directory"),
        (["nightly", "--json", "/"], "/ is a directory"),
        (["known-issues", "/no/such.toml"], "/no/such.toml does not exist"),
        (["known-issues", "/"], "/ cannot be read: Is a directory"),
        (["bench", "no_such_benchmark"], "no benchmark is called 'no_such_benchmark'"),
        (
            ["guest", "build", "--guest-kernel", "6.13"],
            "no kernel is called 6.13, and there is no such",
        ),
        (["guest", "build", "--firmware", "/"], "no firmware is called /, and there is no such"),
        (["build", "x", "--series", "/no/such/dir"], "/no/such/dir does not exist"),
        (["no_such_command"], "No such command"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str],
    tree: Path,
    arguments: list[str],
    said: str,
) -> None:
    code, _, err = snptest(capsys, *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


SUITE = """
    import os, pytest
    @pytest.mark.patches(10)
    def test_good(interface):
        "It holds."
    def test_bad(interface):
        "It does not hold."
        print("\\x1b[1mnoise\\x00")
        assert interface is None, "EIO \\x1b[31m\\x00"
    def test_lacks(interface): pytest.skip("no SNP here")
    def test_dies(interface): os._exit(9)
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with suites of its own in the place of the real ones."""
    for name in ("psc", "gmem"):
        folder = tmp_path / "suites" / name
        folder.mkdir(parents=True)
        (folder / f"test_{name}.py").write_text(textwrap.dedent(SUITE), encoding="utf-8")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ("harness.plugin",)\n')
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    monkeypatch.setattr(run_command, "ROOT", tmp_path)
    monkeypatch.setattr(run_command, "SUITES", tmp_path / "suites")
    monkeypatch.setattr("harness.runner.ROOT", tmp_path)
    monkeypatch.setenv("SNPTEST_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_reports_everything_everywhere(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = snptest(
        capsys, "run", "-n", "2", "--junit", "o/j.xml", "--ktap", "-", "--json", "o/r.jsonl"
    )
    assert code == 1, err
    # KTAP is alone on stdout, so that it can be piped; all else is on stderr.
    assert out.startswith(f"KTAP version 1\n1..{2 * INTERFACES}\n")
    assert "\x1b" not in out + err
    each = 2 * INTERFACES  # two suites
    assert f"{each} pass, {each} fail, {each} crash, {each} skip" in err
    assert "./snptest run 'suites/psc/test_psc.py::test_bad[v12]'" in err
    root = ET.parse(tree / "o" / "j.xml").getroot()
    assert len(list(root.iter("testcase"))) == 4 * each
    for path in (tree / "o" / "r.jsonl", *tree.glob("results/*/results.jsonl")):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        assert [event["event"] for event in events] == ["start", *["result"] * (4 * each), "finish"]
        assert events[-1]["exit"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "last"),
    [
        (["run", "psc", "-k", "good"], 0, f"{INTERFACES} pass"),
        (["run", "psc", "-k", "lacks"], 0, f"{INTERFACES} skip"),
        (["run", "psc", "-k", "bad", "--interface", "v12"], 1, "1 fail"),
        (["run", "-n", "1", "gmem", "-k", "dies", "--interface", "v12"], 1, "1 crash"),
        (["run", "-n", "0", "suites/psc/test_psc.py::test_good[v12]"], 0, "1 pass"),
    ],
)
def test_exit_codes_follow_the_outcomes(
    tree: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, last: str
) -> None:
    got, out, err = snptest(capsys, *arguments)
    assert got == code, out + err
    assert last in out


PLUGIN = """
    def pytest_collection_modifyitems(items):
        del items[1:]
"""


def test_what_is_meant_for_the_user_s_own_pytest_leaves_no_test_out(
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run that passes must have run all tests: with plugins of the user's, too."""
    other = tmp_path / "other"
    (other / "user-1.dist-info").mkdir(parents=True)
    (other / "user-1.dist-info/METADATA").write_text("Name: user\nVersion: 1\n")
    (other / "user-1.dist-info/entry_points.txt").write_text("[pytest11]\nuser = user_plugin\n")
    (other / "user_plugin.py").write_text(textwrap.dedent(PLUGIN))
    (other / "rich.py").write_text("raise SystemError('the rich of another project')\n")
    monkeypatch.setenv("PYTHONPATH", str(other))
    monkeypatch.setenv("PYTEST_ADDOPTS", "--deselect suites/psc/test_psc.py::test_good[v12]")
    monkeypatch.setenv("PYTEST_PLUGINS", "nosuch")
    for workers in ("0", "2"):
        code, out, err = snptest(capsys, "run", "psc", "-n", workers, "-k", "good or lacks")
        assert code == 0, out + err
        assert f"{INTERFACES} pass, {INTERFACES} skip" in out


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_run_stops_after_some_failures(
    tree: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    text = "".join(f"def test_{n}(): assert {n} % 2\n" for n in range(20))
    (tree / "suites/psc/test_more.py").write_text(text)
    more = str(Path("suites/psc/test_more.py"))
    code, out, err = snptest(capsys, "run", more, "-n", workers, "--maxfail", "2")
    assert code == 1, out + err
    assert "1 pass, 2 fail" in out
    assert "stopped by --maxfail 2: 17 tests not run" in out
    code, out, err = snptest(capsys, "run", more, "-n", workers, "--maxfail", "20")
    assert code == 1, out + err
    assert "10 pass, 10 fail" in out
    assert "not run" not in out


def test_asserts_hold_when_python_is_told_to_leave_them_out(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pytest rewrites those of test modules only: a suite's helper would assert nothing."""
    (tree / "suites/psc/helper.py").write_text("def check(value):\n    assert value\n")
    text = "from suites.psc.helper import check\ndef test_helper(): check(False)\n"
    (tree / "suites/psc/test_more.py").write_text(text)
    (tree / "pytest.ini").write_text(
        "[pytest]\naddopts = --import-mode=importlib\npythonpath = .\n"
    )
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    code, out, err = snptest(capsys, "run", "psc", "-n", "1", "-k", "helper")
    assert code == 1, out + err
    assert "1 fail" in out


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("and and", "-k and and is no expression: "),
        ("a (b", "-k a (b is no expression: "),
        ("caf\udce9", "-k caf\\udce9 is not UTF-8"),
    ],
)
def test_a_wrong_expression_is_a_mistake(
    tree: Path, capsys: pytest.CaptureFixture[str], expression: str, said: str
) -> None:
    code, _, err = snptest(capsys, "run", "psc", "-k", expression)
    assert (code, "Traceback" in err) == (2, False)
    assert said in err


def test_an_expression_may_begin_with_a_hyphen(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = snptest(capsys, "run", "psc", "-n", "1", "-k", "-x")
    assert (code, "no test matches" in err) == (2, True)


def test_results_may_be_asked_for_by_a_relative_path(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("SNPTEST_RESULTS", "out")
    code, out, err = snptest(capsys, "run", "psc", "-n", "1", "-k", "good", "--interface", "v12")
    assert code == 0, out + err
    assert len(list((tmp_path / "elsewhere/out").glob("*/results.jsonl"))) == 1


def test_a_suite_that_cannot_be_read_is_exit_3(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "suites" / "gmem" / "test_gmem.py").write_text("import no_such_module\n")
    code, out, _ = snptest(capsys, "run", "gmem")
    assert code == 3
    assert "no_such_module" in out


def test_a_conftest_that_breaks_pytest_is_exit_3_with_its_words(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "suites" / "conftest.py").write_text("raise RuntimeError('broken conftest')\n")
    code, out, _ = snptest(capsys, "run", "gmem")
    assert code == 3
    assert "broken conftest" in out


def test_nothing_that_matches_is_a_mistake(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = snptest(capsys, "run", "psc", "-k", "no_such_test")
    assert code == 2
    assert "no test matches" in err


def test_doctor_judges_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = snptest(capsys, "doctor")
    assert code == 0, out
    for topic in ("python", "gcc", "/dev/kvm", "kvm_amd.sev_snp", "/dev/sev", "kernel build"):
        assert topic in out


BENCHMARK = """
    def run():
        return [
            {"name": "fast", "ratio": 1.5, "bar": 3, "unit": "x", "detail": "d"},
            {"name": "told", "ratio": 99.0, "bar": None},
            {"name": "slow", "ratio": RATIO, "bar": 2.0, "unit": "ms"},
        ]
"""


@pytest.mark.parametrize(("ratio", "code"), [("1.0", 0), ("2.5", 1)])
def test_benchmarks_are_held_against_their_bars(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ratio: str,
    code: int,
) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "made.py").write_text(textwrap.dedent(BENCHMARK).replace("RATIO", ratio))
    monkeypatch.setattr(bench, "FOLDER", folder)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "benchmarks", raising=False)
    monkeypatch.delitem(sys.modules, "benchmarks.made", raising=False)
    output = tmp_path / "b.json"
    got, out, _ = snptest(capsys, "bench", "--json", str(output))
    monkeypatch.delitem(sys.modules, "benchmarks", raising=False)
    assert got == code
    assert ("MISSED" in out) == bool(code)
    assert [record["name"] for record in json.loads(output.read_text())] == ["fast", "told", "slow"]


def test_pytests_last_line_is_read() -> None:
    line = "= 1 failed, 20 passed, 2 skipped, 3 xfailed, 1 xpassed, 2 errors in 1.23s ="
    assert check.counts_of(line) == {
        "failed": 1,
        "passed": 20,
        "skipped": 2,
        "xfailed": 3,
        "xpassed": 1,
        "error": 2,
    }


def test_a_mistake_as_an_exception_reads_well() -> None:
    assert str(UsageError("no such thing", "try another")) == "no such thing (try another)"


def test_module_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "Usage: snptest" in done.stdout


@pytest.mark.parametrize(
    ("words", "built"),
    [
        (("--backend", "vng"), ("run", "linux-source-6.12", ())),
        (("--machine", "stock"), ("run", "linux-source-6.12", ())),
        (("--series", "there"), ("run", "linux-source-6.12", ("there",))),
        (("--kernel", "mine", "--base", "/src"), ("mine", "/src", ())),
    ],
)
def test_a_kernel_that_is_not_named_is_built(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    built: tuple[str, str, tuple[str, ...]],
) -> None:
    asked = []

    def build(options: BuildOptions) -> None:
        asked.append((options.name, options.base, options.series))
        raise UserError("far enough")

    monkeypatch.setattr(run_command, "build_kernel", build)
    code, _, err = snptest(capsys, "run", "gmem", *words)
    assert asked == [built]
    assert code == 3
    assert "far enough" in err


@pytest.mark.parametrize(
    ("statuses", "code", "said"),
    [
        ((0, 0), 0, "2 passed, 0 failed"),
        ((1, 0), 1, "FAILED"),
        ((0, 1), 1, "FAILED"),
        ((2, 1), 3, "BROKEN"),
        ((0, 4), 3, "BROKEN"),
        ((-9, 0), 3, "BROKEN"),
        ((None, 0), 3, "lacks the module no_such_tool"),
    ],
    ids=repr,
)
def test_a_check_that_could_not_check_is_no_failed_test(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    statuses: tuple[int | None, ...],
    code: int,
    said: str,
) -> None:
    """Linters and pytest say 1 of what they judge; 2 and more is about themselves."""

    def stage(number: int, status: int | None) -> check.Stage:
        if status is None:
            return check.Stage("tool", [sys.executable, "-m", "no_such_tool"])
        end = "import os; print('1 passed in 1s', flush=True); os.kill(os.getpid(), 9)"
        if status >= 0:
            end = f"print('{1 - status % 2} passed in 1s'); raise SystemExit({status})"
        return check.Stage(f"stage {number}", [sys.executable, "-c", end])

    made = [stage(*each) for each in enumerate(statuses)]
    monkeypatch.setattr(check, "stages", lambda *, quick: made)
    assert check.check(quick=True) == code
    assert said in capsys.readouterr().out
