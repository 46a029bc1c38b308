# SPDX-License-Identifier: GPL-2.0-only
"""What splats and known issues make of results, seen through whole runs of pytest."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from harness.errors import UsageError
from harness.kernel import Kernel
from harness.operations import TargetError
from harness.report import junit, summary
from harness.report.outcome import BOOT, Outcome, Result
from harness.splats import Kind, Splat, find_splats, known
from harness.splats.judge import judge
from harness.splats.known import KernelRange, KnownIssues, Where
from harness.splats.watch import LogWatch
from tests.splat_samples import SAMPLES
from tests.test_plugin import execute

ROOT = Path(__file__).parents[1]
LINK = "https://lore.kernel.org/x"

ISSUES = f"""
[[issue]]
id = "known-warning"
pattern = 'kvm/known\\.c'
interfaces = "*"
environment = "fake"
reason = "it always did"
link = "{LINK}"

[[issue]]
id = "known-panic"
pattern = "not syncing: known"
reason = "dies of it"
link = "{LINK}"

[[issue]]
id = "elsewhere"
pattern = 'sev\\.c'
environment = "snp"
reason = "only there"
link = "{LINK}"

[[issue]]
id = "named"
test = ["*test_named_*", "*::test_gone[v12]"]
fails = "wrong answer"
reason = "answers wrongly"
link = "{LINK}"

[[issue]]
id = "flaky"
test = "*test_sometimes*"
strict = false
reason = "is slow"
link = "{LINK}"

[[issue]]
id = "missing"
skips = "has no such thing"
reason = "was dropped"
link = "{LINK}"
"""

SUITE = r"""
import pytest
from harness.operations import TargetError

CUT = "[   12.000000] ------------[ cut here ]------------\n"

def warning(file, trace="f+0x1/0x2"):
    return (CUT + f"[   12.000001] WARNING: CPU: 1 PID: 2 at {file}:1 f+0x1/0x2\n"
            f"[   12.000002] Call Trace:\n[   12.000003]  {trace}\n"
            "[   12.000004] ---[ end trace 0000000000000000 ]---\n")

@pytest.fixture
def early(kernel): kernel.text += warning("early.c")

@pytest.fixture
def late(kernel):
    yield
    kernel.text += warning("late.c")

def test_twice(kernel): kernel.text += warning("sev.c") + "[   12.5] x\n" + warning("gmem.c")
def test_not_blamed(kernel): assert "sev.c" in kernel.text
def test_in_setup(early, request): request.config.stash["ran"] = True
def test_setup_does_not_keep_it_from_running(kernel, request): assert request.config.stash["ran"]
def test_in_teardown(late): pass
def test_fails_too(kernel):
    kernel.text += warning("sev.c")
    assert False, "EIO"
@pytest.mark.splat(r"sev\.c")
def test_allowed(kernel): kernel.text += warning("sev.c")
@pytest.mark.splat(r"sev\.c")
def test_allowed_only_that(kernel): kernel.text += warning("sev.c") + warning("gmem.c")
@pytest.mark.splat(r"sev\.c")
def test_may_means_may(kernel): pass
@pytest.mark.splat
def test_marker_without_pattern(kernel): pass
def test_known(kernel): kernel.text += warning("kvm/known.c")
def test_known_and_not(kernel): kernel.text += warning("kvm/known.c") + warning("sev.c")
def test_skips(kernel):
    kernel.text += warning("sev.c")
    pytest.skip("no SNP here")
def test_skips_for_known(): pytest.skip("this host has no such thing")
@pytest.mark.xfail(reason="something else")
def test_xfail_and_warning(kernel):
    kernel.text += warning("sev.c")
    assert False
def test_crash_known(kernel):
    kernel.text += "[   13.000000] Kernel panic - not syncing: known\n"
    raise TargetError("died")
def test_another_kernel(kernel): assert not kernel.down and not kernel.text
def test_crash_not_explained(kernel):
    kernel.text += warning("kvm/known.c")
    raise TargetError("hung")
def test_named_fails(): assert False, "a wrong answer"
def test_named_fails_otherwise(): assert False, "another reason"
def test_gone(interface): pass
def test_sometimes_fails(): assert False
def test_sometimes_passes(): pass
"""

WANTED = {
    "test_twice": (Outcome.FAIL, "the kernel warned: WARNING: CPU: 1 PID: 2 at sev.c:1 .*1 more"),
    "test_not_blamed": (Outcome.PASS, ""),
    "test_in_setup": (Outcome.FAIL, "the kernel warned: .*early.c"),
    "test_setup_does_not_keep_it_from_running": (Outcome.PASS, ""),
    "test_in_teardown": (Outcome.FAIL, "the kernel warned: .*late.c"),
    "test_fails_too": (Outcome.FAIL, "EIO; the kernel warned: .*sev.c"),
    "test_allowed": (Outcome.PASS, ""),
    "test_allowed_only_that": (Outcome.FAIL, "the kernel warned: [^(]*gmem.c[^(]*$"),
    "test_may_means_may": (Outcome.PASS, ""),
    "test_marker_without_pattern": (Outcome.ERROR, "one regular expression"),
    "test_known": (Outcome.XFAIL, rf"\[known-warning\] it always did \({LINK}\)"),
    "test_known_and_not": (Outcome.FAIL, "the kernel warned: [^(]*sev.c"),
    "test_skips": (Outcome.FAIL, "the kernel warned: .*sev.c"),
    "test_skips_for_known": (Outcome.SKIP, rf"no such thing: \[missing\] was dropped \({LINK}"),
    "test_xfail_and_warning": (Outcome.FAIL, "the kernel warned: .*sev.c"),
    "test_crash_known": (Outcome.XFAIL, r"\[known-panic\] dies of it"),
    "test_another_kernel": (Outcome.PASS, ""),
    "test_crash_not_explained": (Outcome.CRASH, "hung; the kernel warned: .*known.c"),
    "test_named_fails": (Outcome.XFAIL, r"\[named\] answers wrongly"),
    "test_named_fails_otherwise": (Outcome.FAIL, "another reason"),
    "test_gone": (Outcome.FAIL, r"passed, but is listed as a known issue: \[named\]"),
    "test_sometimes_fails": (Outcome.XFAIL, r"\[flaky\]"),
    "test_sometimes_passes": (Outcome.PASS, ""),
}


@pytest.fixture
def issues(tmp_path: Path) -> Path:
    path = tmp_path / "issues.toml"
    path.write_text(ISSUES)
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_every_case_is_judged(tmp_path: Path, issues: Path, workers: int) -> None:
    arguments = (f"--known-issues={issues}", "--interface=v12")
    run = execute(tmp_path, SUITE, *arguments, workers=workers)
    results = {re.split(r"::|\[", each.id)[1]: each for each in run.results}
    assert run.broken == []
    assert results.keys() == WANTED.keys()
    for name, (outcome, reason) in WANTED.items():
        result = results[name]
        assert result.outcome is outcome, (name, result.reason)
        assert re.search(reason, result.reason), (name, result.reason)
    twice = results["test_twice"]
    assert twice.details.count("end trace") == 2
    assert "gmem.c" in twice.console
    assert "sev.c:1" in results["test_fails_too"].details
    assert "AssertionError" in results["test_fails_too"].details
    assert "known.c" in results["test_known"].console


BOOTING = (
    """
    import conftest_fake
    plain = conftest_fake.FakeKernel.__init__
    def init(self, interface):
        plain(self, interface)
        self.text = "[    0.000000] Linux version 6.8.0-snp (x)\\\\n[    1.000000] BUG: x {0}\\\\n"
    conftest_fake.FakeKernel.__init__ = init
"""
    """
    def test_first(kernel): pass
    def test_kills(kernel):
        from harness.operations import TargetError
        raise TargetError("died")
    def test_on_the_next_one(kernel): pass
"""
)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("file", "wanted"), [("other.c", "fail"), ("kvm/known.c", "xfail")])
def test_a_boot_that_warns_is_a_result_of_its_own(
    tmp_path: Path, issues: Path, workers: int, file: str, wanted: str
) -> None:
    source = BOOTING.format(file)
    run = execute(tmp_path, source, f"--known-issues={issues}", workers=workers)
    boots = [each for each in run.results if each.suite == BOOT]
    assert sorted(each.id for each in boots) == ["boot::fake[merged]", "boot::fake[v12]"]
    assert {each.outcome for each in boots} == {Outcome(wanted)}
    assert "Linux version" in boots[0].console
    tests = [each.outcome for each in run.results if each.suite != BOOT]
    assert sorted(tests) == ["crash", "crash", "pass", "pass", "pass", "pass"]
    assert run.collected == 6


WITHOUT_SNP = (
    """
    import conftest_fake, pytest
    from harness.operations import Result
    log = "[    1.063674] ccp 0000:00:04.0: could not enable MSI-X (-22), trying MSI\\n"
    log += "[    7.546580] ccp 0000:00:04.0: SEV: INIT failed 0x1a, rc -5\\n"
    plain = conftest_fake.FakeKernel.__init__
    def init(self, interface):
        plain(self, interface)
        self.text = log
    conftest_fake.FakeKernel.__init__ = init
    conftest_fake.FakeKernel.environment = frozenset(%r)
    conftest_fake.FakeKernel.call = lambda self, op, **options: Result(0, 0, %r)
    conftest_fake.FakeBackend.interfaces = ()
"""
    """
    def test_first(kernel): pytest.skip("needs SEV-SNP")
    def test_second(kernel): pytest.skip("needs SEV-SNP")
"""
)


@pytest.mark.parametrize(
    ("environment", "parameter", "told"),
    [
        (["snp"], b"N\n", True),
        (["snp"], b"Y\n", False),
        (["stock"], b"N\n", False),
    ],
)
def test_snp_that_is_off_fails_the_boot(
    tmp_path: Path, environment: list[str], parameter: bytes, told: bool
) -> None:
    """On a machine that has SNP: else all would skip, and the run would pass."""
    run = execute(tmp_path, WITHOUT_SNP % (environment, parameter))
    boots = [each for each in run.results if each.suite == BOOT]
    assert [each.outcome for each in boots] == [Outcome.FAIL] * told
    for each in boots:
        assert each.reason == (
            "SEV-SNP is off (kvm_amd.sev_snp=N) on a machine that has it: "
            "ccp 0000:00:04.0: SEV: INIT failed 0x1a, rc -5"
        )
    tests = [each.outcome for each in run.results if each.suite != BOOT]
    assert tests == [Outcome.SKIP] * 2


def test_a_boots_result_reads_well() -> None:
    result = Result(
        id="boot::mine", suite=BOOT, interface="", outcome=Outcome.FAIL, seconds=0, reason="warned"
    )
    assert 'name="mine"' in junit.render([result], {})
    console = Console(record=True, width=100, file=io.StringIO(), markup=False)
    summary.show(console, [result], 1.0)
    text = console.export_text()
    assert "FAIL  boot::mine: warned" in text
    assert "again:" not in text


def test_a_broken_file_of_issues_is_told_in_one_line(tmp_path: Path, issues: Path) -> None:
    issues.write_text("[[issue]]\nid = 'x'\npattern = '('\nreason='r'\nlink='https://x'\n")
    run = execute(tmp_path, "def test_x(): pass\n", f"--known-issues={issues}")
    assert run.results == []
    log = run.log.read_text()
    assert f"{issues}: issue 'x': pattern is \"(\"; want a regular expression" in log
    assert "Traceback" not in log


# A kernel's log ----------------------------------------------------------------------------


class Logging(Kernel):
    """Has nothing but a log."""

    name = "logging"
    text: str | None = ""

    def start(self, *_args: object, **_kwargs: object) -> None:  # type: ignore[override]
        raise NotImplementedError

    wait = wait_any = interrupt = start  # type: ignore[assignment]

    def log(self) -> str:
        if self.text is None:
            raise TargetError("gone")
        return self.text

    def shutdown(self) -> None:
        self.text = None


def numbered(*numbers: int, end: str = "\n") -> str:
    return "".join(f"[{number:5}.000000] this is line number {number}{end}" for number in numbers)


@pytest.fixture
def watch() -> LogWatch:
    return LogWatch(Logging())


def test_what_comes_between_two_tests_is_the_seconds(watch: LogWatch) -> None:
    kernel = watch.kernel
    assert isinstance(kernel, Logging)
    kernel.text = numbered(1)
    assert watch.read() == numbered(1)
    kernel.text += SAMPLES["warn"][2]  # after the first test's end was read
    watch.mark()
    assert [each.kind for each in watch.new_splats()] == [Kind.WARNING]
    assert watch.new_splats() == []
    kernel.text += SAMPLES["oops"][2]
    assert [each.kind for each in watch.new_splats()] == [Kind.OOPS]
    watch.mark()
    assert watch.new_splats() == []


def test_a_log_that_forgot_its_beginning_is_continued(watch: LogWatch) -> None:
    kernel = watch.kernel
    assert isinstance(kernel, Logging)
    kernel.text = numbered(*range(100))
    watch.read()
    watch.mark()
    kernel.text = numbered(*range(60, 120))
    assert watch.read() == numbered(*range(100, 120))
    kernel.text = numbered(*range(300, 320))  # nothing of it is known: all is new
    assert watch.read() == kernel.text


def test_a_dead_kernels_console_continues_its_log(watch: LogWatch) -> None:
    kernel = watch.kernel
    assert isinstance(kernel, Logging)
    kernel.text = SAMPLES["warn"][2] + numbered(*range(100)) + "[  100.000000] at level debug\n"
    watch.read()
    watch.mark()
    console = SAMPLES["warn"][2] + numbered(*range(100)) + SAMPLES["panic"][2]
    kernel.text = "SeaBIOS\n" + console.replace("\n", "\r\n")
    assert [each.kind for each in watch.new_splats()] == [Kind.PANIC]


def test_an_unreadable_log_says_so_and_costs_nothing(watch: LogWatch) -> None:
    kernel = watch.kernel
    assert isinstance(kernel, Logging)
    kernel.text = "[    0.000000] Linux version 6.12.117-snptest (x)\n" + SAMPLES["warn"][2]
    assert len(watch.new_splats()) == 1
    assert watch.release == "6.12.117-snptest"
    watch.mark()
    kernel.text = None
    assert "could not be read: gone" in watch.read()
    assert watch.new_splats() == []


# The file ----------------------------------------------------------------------------------

GOOD = {"id": '"x"', "pattern": '"p"', "reason": '"r"', "link": '"https://x"'}


def entry(**fields: str | None) -> str:
    merged = {key: value for key, value in {**GOOD, **fields}.items() if value is not None}
    return "[[issue]]\n" + "".join(f"{key} = {value}\n" for key, value in merged.items())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[issue", "is no TOML"),
        ("[other]\nx = 1", "other is no key that is known; want one of issue"),
        ("issue = 3", "issue is 3; want tables: [[issue]]"),
        ("issue = [3]", "issue 1 is 3; want a table"),
        (entry(id=None), "issue 1: id is missing; want a text"),
        (entry(id='"A b"'), "issue 'A b': id is \"A b\"; want lower-case"),
        (entry(reason=None), "issue 'x': reason is missing; want a text"),
        (entry(link='"lore"'), "issue 'x': link is \"lore\"; want a URL"),
        (entry(pattern='"["'), "issue 'x': pattern is \"[\"; want a regular expression"),
        (entry(pattern=None), "pattern is missing; want exactly one of"),
        (entry(test='"*"'), "pattern and test are given; want exactly one of"),
        (entry(fails='"x"'), "fails is given, and test is not; want it only with test"),
        (entry(strict="false"), "strict is given, and test is not; want it only with test"),
        (entry(pattern=None, test='"t"', strict='"no"'), 'strict is "no"; want true or false'),
        (entry(pattern="3"), "pattern is 3; want a text"),
        (entry(interfaces="[3]"), "interfaces is [3]; want a text, or a list of texts"),
        (entry(kernels='"6.8"'), 'kernels is "6.8"; want bounds as in'),
        (entry(kernels='">=6.8 or so"'), 'kernels is ">=6.8 or so"; want bounds'),
        (entry(patern='"x"'), "patern is no key that is known; want one of"),
        (entry() + entry(), "issue 'x': id \"x\" is used twice; want one"),
    ],
)
def test_mistakes_name_file_entry_and_field(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "issues.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        known.load(path)
    assert str(path) in caught.value.message
    assert complaint in str(caught.value)
    assert "\n" not in caught.value.message


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml does not exist"):
        known.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=6.8, <6.9", ["6.8.0-snp-host", "6.8.12", "6.9.0-rc1"], ["6.9.0", "6.7.9", "6.12.1"]),
        ("<6.9-rc3", ["6.9.0-rc2-x", "6.8"], ["6.9.0-rc3", "6.9.0"]),
        ("==6.12.117", ["6.12.117-snptest"], ["6.12.116", "6.12"]),
        (">6.12", ["6.12.1", "7.2.0-rc1+"], ["6.12.0", "6.11.9"]),
        (">=6.1", [], ["", "unknown", "six.1"]),
    ],
)
def test_ranges_of_kernels(text: str, inside: list[str], outside: list[str]) -> None:
    kernels = KernelRange.parse(text)
    assert [each for each in inside + outside if kernels.holds(each)] == inside


def loaded(tmp_path: Path, text: str) -> KnownIssues:
    path = tmp_path / "issues.toml"
    path.write_text(text)
    return known.load(path)


def test_an_issue_counts_only_where_it_is_at_home(tmp_path: Path) -> None:
    text = entry(
        pattern=None,
        test='"suites/a/*[v12-?]"',
        interfaces='["v12"]',
        environment='["vng", "tcg"]',
        kernels='">=6.12"',
    )
    issues = loaded(tmp_path, text)
    home = Where("suites/a/t.py::x[v12-3]", "v12", frozenset({"vng", "tcg", "stock"}), "6.12.1")
    assert issues.of_failure(home, "anything")
    assert issues.gone(home)
    for other in (
        Where("suites/a/t.py::x[v12-34]", home.interface, home.environment, home.release),
        Where(home.test, "merged", home.environment, home.release),
        Where(home.test, home.interface, frozenset({"vng", "stock"}), home.release),
        Where(home.test, home.interface, home.environment, "6.11.0"),
        Where(home.test, home.interface, home.environment, ""),
    ):
        assert issues.of_failure(other, "anything") is None, other


def splats(*names: str) -> list[Splat]:
    return [splat for name in names for splat in find_splats(SAMPLES[name][2])]


@pytest.mark.parametrize("release", ["6.8.0-snp-host-v12", "6.12.117"])
def test_the_v12_cover_letters_warning_is_known_on_its_base_only(release: str) -> None:
    where = Where("suites/launch/t.py::x", "v12", frozenset({"ssh", "snp"}), release)
    seen = splats("warn-message")
    judged = judge(Outcome.PASS, "", splats=seen, known=known.load(), where=where)
    assert judged.outcome is (Outcome.XFAIL if release.startswith("6.8") else Outcome.FAIL)


def test_stock_tcgs_failures_of_selftests_are_known_there_only() -> None:
    issues = known.load()
    names = ("svm_nested_soft_inject_test", "nested_exceptions_test", "debug_regs")
    for name in names:
        test = f"kselftest/kvm::{name}"
        tcg = Where(test, "", frozenset({"vng", "tcg", "stock"}), "6.12.117")
        assert issues.of_failure(tcg, "exit status 254"), name
        assert issues.gone(tcg), name
        kvm = Where(test, "", frozenset({"vng", "kvm", "stock"}), "6.12.117")
        assert issues.of_failure(kvm, "exit status 254") is None
    slow = Where("kselftest/kvm::hardware_disable_test", "", frozenset({"tcg", "stock"}), "7.2.0")
    assert issues.of_failure(slow, "no end within 50 s")
    assert issues.gone(slow) is None


def test_tests_of_ours_that_the_file_names_exist() -> None:
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "suites"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout.splitlines()
    named = [
        (issue.id, pattern)
        for issue in known.load().issues
        for pattern in issue.tests
        if pattern.pattern.startswith("suites/")
    ]
    assert named
    for issue, pattern in named:
        assert any(pattern.fullmatch(each) for each in collected), issue


def test_the_command_lists_every_entry_and_checks_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.cli.known import show

    assert show(None) == 0
    text = capsys.readouterr().out
    for issue in known.load().issues:
        for part in (issue.id, issue.reason, issue.link):
            assert part in text
    assert "kernels >=6.8, <6.9" in text
    broken = tmp_path / "mine.toml"
    broken.write_text(entry(pattern='"("'))
    with pytest.raises(UsageError, match=r"mine\.toml"):
        show(broken)


SYMBOLISED = """
    import conftest_fake
    from pathlib import Path
    from harness.splats.symbols import Symbols
    script = Path(__file__).with_name("decode.sh")
    script.write_text("while read n s; do echo $n ${s%+*} '(arch/x86/kvm/svm/sev.c:42)'; done")
    conftest_fake.FakeKernel.symbols = Symbols(Path(__file__), None, script)

    def test_oopses(kernel):
        kernel.text += "[   12.000001] BUG: unable to handle page fault for address: 0\\n"
        kernel.text += "[   12.000002] RIP: 0010:sev_gmem_prepare+0x11c/0x150 [kvm_amd]\\n"
"""


def test_traces_in_results_are_symbolised(tmp_path: Path) -> None:
    run = execute(tmp_path, SYMBOLISED, "--interface=v12")
    assert run.results[0].outcome is Outcome.FAIL
    place = "sev_gmem_prepare+0x11c/0x150 [kvm_amd] (arch/x86/kvm/svm/sev.c:42)"
    assert place in run.results[0].details
    assert "sev.c:42" not in run.results[0].console  # which stays as it was logged


def test_a_log_is_read_once_a_phase(tmp_path: Path) -> None:
    """A kernel that hangs answers each time after a deadline only."""
    source = """
        import conftest_fake
        from harness.operations import TargetError, TargetTimeoutError
        log = conftest_fake.FakeKernel.log
        reads = []
        def counting(self):
            reads.append(self)
            if self.down: raise TargetError("down")
            return log(self)
        conftest_fake.FakeKernel.log = counting
        def test_hangs(kernel):
            reads.clear()
            kernel.text += "[   12.000001] BUG: unable to handle page fault for address: 0\\n"
            raise TargetTimeoutError("hung")
        def test_after(kernel):
            assert len([each for each in reads if each is not kernel]) == 1
    """
    run = execute(tmp_path, source, "--interface=v12")
    assert [each.outcome for each in run.results] == [Outcome.CRASH, Outcome.PASS]
    assert "page fault" in run.results[0].console


def test_the_dropped_2m_pages_explain_their_skips() -> None:
    from harness.features import FEATURES

    class Small:
        kernel = Logging()

    reason = FEATURES["gmem_2m"](Small())  # type: ignore[arg-type]
    assert reason
    where = Where("suites/gmem/t.py::x", "v12", frozenset({"vng"}), "6.12.117")
    judged = judge(Outcome.SKIP, reason, splats=[], known=known.load(), where=where)
    assert judged.outcome is Outcome.SKIP
    assert "[gmem-2m-dropped]" in judged.reason


FATAL = "[   13.000000] Kernel panic - not syncing: Fatal exception\n"
ON_WARN = "[   13.000000] Kernel panic - not syncing: kernel: panic_on_warn set ...\n"
OTHER = "[   13.000000] Kernel panic - not syncing: Attempted to kill init!\n"


@pytest.mark.parametrize(
    ("log", "wanted"),
    [
        (SAMPLES["oops"][2] + FATAL, Outcome.XFAIL),
        (SAMPLES["oops"][2] + OTHER, Outcome.CRASH),
        (SAMPLES["warn-message"][2] + ON_WARN, Outcome.XFAIL),
        (SAMPLES["warn-message"][2], Outcome.CRASH),
        (SAMPLES["oops"][2] + SAMPLES["kasan"][2] + FATAL, Outcome.CRASH),
        (FATAL, Outcome.CRASH),
        ("", Outcome.CRASH),
    ],
)
def test_a_death_is_known_when_what_began_it_is(tmp_path: Path, log: str, wanted: Outcome) -> None:
    issues = loaded(tmp_path, entry(pattern='"Unpatched return thunk|NULL pointer"'))
    judged = judge(
        Outcome.CRASH, "died", splats=find_splats(log), known=issues, where=Where("suites/t.py::x")
    )
    assert judged.outcome is wanted, judged.reason
