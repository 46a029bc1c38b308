# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of a selftest: exit status, results and last words, weighed against each other."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from harness import agent
from harness.errors import UserError
from harness.frames import completed
from harness.kselftest import catalogue
from harness.kselftest.judge import Verdict, judge, was_started
from harness.kselftest.sources import KVM, Prints, prints
from harness.operations import Completed
from harness.report.outcome import Outcome

TWO = "TAP version 13\n1..2\nok 1 a\n"
ASSERTION = """\
Random seed: 0x6b8b4567
==== Test Assertion Failure ====
  x86_64/nested_exceptions_test.c:87: ctrl->exit_info_1 == error_code
  pid=51 tid=51 errno=4 - Interrupted system call
     1\t0x00000000004110e1: assert_on_unhandled_exception at processor.c:611
     2\t0x0000000000407512: _vcpu_run at kvm_util.c:1649
     3\t (inlined by) vcpu_run at kvm_util.c:1660
     4\t0x0000000000402774: main at nested_exceptions_test.c:267
     5\t0x00007f5c808f3249: ?? ??:0
  0xc2 != 0x62 (ctrl->exit_info_1 != error_code)
"""


def judged(status: int | None, output: str | bytes = "", dropped: int = 0) -> Verdict:
    raw = output.encode() if isinstance(output, str) else output
    failure = "" if status is not None else "it did not end in time"
    return judge(Completed(status, raw, dropped, failure), 120)


@pytest.mark.parametrize(
    ("status", "output", "outcome"),
    [
        (0, "", Outcome.PASS),
        (0, "Random seed: 1\n", Outcome.PASS),
        (0, TWO + "ok 2 b\n", Outcome.PASS),
        (0, TWO + "not ok 2 b # TODO later\n", Outcome.PASS),
        (0, TWO + "ok 2 b # SKIP no SNP\n", Outcome.PASS),
        (0, TWO + "not ok 2 b\n", Outcome.FAIL),
        (0, "not ok 2 b\n", Outcome.FAIL),
        (0, TWO, Outcome.FAIL),
        (0, TWO + "Bail out!\n", Outcome.FAIL),
        (0, "TAP version 13\n1..1\nok 1 a # SKIP no SNP\n", Outcome.SKIP),
        (0, "TAP version 13\n1..0 # SKIP no SNP\n", Outcome.SKIP),
        (4, "", Outcome.SKIP),
        (4, "1..0 # SKIP - Requirement not met: x\n", Outcome.SKIP),
        (4, TWO + "ok 2 # SKIP no SNP\n", Outcome.SKIP),
        # Skipping half way is skipping; failing before it is not.
        (4, "TAP version 13\n1..3\nok 1 a\nok 2 # SKIP no SNP\n", Outcome.SKIP),
        (4, TWO + "not ok 2 b\n", Outcome.FAIL),
        (1, "", Outcome.FAIL),
        (1, TWO + "ok 2 b\n", Outcome.FAIL),
        (2, "", Outcome.FAIL),
        (254, ASSERTION, Outcome.FAIL),
        (-signal.SIGSEGV, "", Outcome.FAIL),
        (None, TWO, Outcome.FAIL),
    ],
)
def test_outcomes(status: int | None, output: str, outcome: Outcome) -> None:
    assert judged(status, output).outcome is outcome


@pytest.mark.parametrize(
    ("status", "output", "reason"),
    [
        (
            254,
            ASSERTION,
            "exit status 254; x86_64/nested_exceptions_test.c:87: ctrl->exit_info_1 == error_code:"
            " 0xc2 != 0x62 (ctrl->exit_info_1 != error_code)",
        ),
        (1, TWO + "not ok 2 b # no memory\n", "exit status 1; b: no memory"),
        (0, TWO + "not ok 2 b\n", "b"),
        (0, TWO, "1 result where 2 were planned"),
        (0, TWO + "Bail out! no memory\n", "bailed out: no memory; 1 result where 2 were planned"),
        (1, "open: No such file\n\n", "exit status 1; open: No such file"),
        (1, "", "exit status 1"),
        (-11, TWO, "killed by SIGSEGV; 1 result where 2 were planned"),
        (-99, "", "killed by signal 99"),
        (None, "Testing\n", "it did not end within 120 s; Testing"),
        (
            1,
            "TAP version 13\n1..5\n" + "".join(f"not ok {n} t{n}\n" for n in range(1, 6)),
            "exit status 1; t1; t2; t3; and 2 more",
        ),
        (
            0,
            "KTAP version 1\n1..1\n  KTAP version 1\n  1..1\n  not ok 1 inner\nnot ok 1 outer\n",
            "outer/inner",
        ),
        (4, "1..0 # SKIP - Requirement not met: has(SEV)\n", "Requirement not met: has(SEV)"),
        (4, TWO + "ok 2 # SKIP - no SNP\n# Totals: pass:1\n", "no SNP"),
        (4, "KVM_CAP_X is missing, skipping test\nbye\n", "KVM_CAP_X is missing, skipping test"),
        (4, "no such thing\n", "no such thing"),
        (4, "", "it gave no reason (exit status 4)"),
        (0, TWO + "ok 2 b # SKIP x\n", "1 ok, 1 skip"),
    ],
)
def test_reasons(status: int | None, output: str, reason: str) -> None:
    assert judged(status, output).reason == reason


def test_details_name_every_result_and_end_with_the_output() -> None:
    output = f"{TWO}# x was 1\nnot ok 2 b\n" + "noise\n" * 100 + "last words\n"
    details = judged(1, output).details
    assert details.startswith("ok     a\nnot ok b\n         x was 1\n\noutput (66 lines before")
    assert details.endswith("last words")


def test_details_of_a_pass_with_results_have_no_output() -> None:
    assert judged(0, TWO + "ok 2 b\n").details == "ok     a\nok     b"
    assert judged(0, "Random seed: 1\n").details == "output:\nRandom seed: 1"


def test_a_thousand_passes_do_not_bury_a_failure() -> None:
    results = "".join(f"ok {n} t{n}\n" for n in range(1, 1000))
    details = judged(1, f"TAP version 13\n1..1000\n{results}not ok 1000 last\n").details
    assert "not ok last" in details
    assert "[799 more that did not fail]" in details


def test_a_plan_is_not_held_against_output_that_was_cut_off() -> None:
    verdict = judged(1, TWO, dropped=4096)
    assert verdict.outcome is Outcome.FAIL
    assert "[4096 bytes of output beyond the limit were dropped]" in verdict.details
    assert judged(0, TWO + "not ok 2 b\n", dropped=4096).outcome is Outcome.FAIL
    # What was dropped may have been a failure: neither is it a pass.
    verdict = judged(0, TWO, dropped=4096)
    assert verdict.outcome is Outcome.ERROR
    assert "1 result where 2 were planned, but 4096 bytes" in verdict.reason
    assert judged(0, "Random seed: 1\n", dropped=4096).outcome is Outcome.PASS


HEADER = "TAP version 13\n1..3\n"
COUNTED = "# Totals: pass:{} fail:{} xfail:0 xpass:0 skip:0 error:0\n"


@pytest.mark.parametrize(
    ("status", "output", "prints", "outcome", "reason"),
    [
        # The count that a program keeps is believed where it is the worse one.
        (
            0,
            "Random seed: 1\n" + COUNTED.format(3, 1),
            Prints.SOMETHING,
            Outcome.FAIL,
            "its totals say fail:1, and no result line does",
        ),
        (
            0,
            HEADER + "ok 1 a\nok 2 b\nok 3 c\n" + COUNTED.format(2, 1),
            Prints.RESULTS,
            Outcome.FAIL,
            "its totals say fail:1, and no result line does",
        ),
        (
            0,
            HEADER + "ok 1 a\nok 2 b\nok 3 c\n" + COUNTED.format(4, 0),
            Prints.RESULTS,
            Outcome.FAIL,
            "its totals count 4 results, and it printed 3",
        ),
        (
            4,
            HEADER + "ok 1 a\n" + COUNTED.format(1, 1),
            Prints.RESULTS,
            Outcome.FAIL,
            "its totals say fail:1, and no result line does",
        ),
        # Every program of a tree prints its seed: silence is no pass; in older trees it may be.
        (
            0,
            "",
            Prints.SOMETHING,
            Outcome.ERROR,
            "no result: exit status 0, and it printed nothing",
        ),
        (0, "\n \n", Prints.SOMETHING, Outcome.ERROR, "no result: exit status 0"),
        (0, "", Prints.MAYBE, Outcome.PASS, "exit status 0, nothing printed"),
        (0, "Random seed: 1\n", Prints.SOMETHING, Outcome.PASS, "exit status 0"),
        # One that is made to print results has passed where it did.
        (0, "Random seed: 1\n", Prints.RESULTS, Outcome.ERROR, "none of the results"),
        (0, "TAP version 13\n", Prints.MAYBE, Outcome.ERROR, "none of the results"),
        (0, HEADER + "ok 1 a\nok 2 b\nok 3 c\n", Prints.RESULTS, Outcome.PASS, "3 ok"),
        (4, "", Prints.RESULTS, Outcome.SKIP, "it gave no reason"),
        (1, "", Prints.RESULTS, Outcome.FAIL, "exit status 1"),
        (0, "TAP version 13\n1..0\n", Prints.RESULTS, Outcome.SKIP, "it planned no tests (1..0)"),
        # Carriage returns: of a serial line, or of a progress bar.
        (0, "1..1\r\nnot ok 1 a\r\n", Prints.MAYBE, Outcome.FAIL, "a"),
        (0, "1..1\r\r\nok 1 a\r\r\n", Prints.MAYBE, Outcome.PASS, "1 ok"),
        (0, "1..1\n 10%\r 90%\rnot ok 1 a\n", Prints.MAYBE, Outcome.FAIL, "a"),
        # Colour.
        (0, "1..1\n\x1b[31mnot ok\x1b[0m 1 a\n", Prints.MAYBE, Outcome.FAIL, "a"),
        # A result that comes in the middle of a line is missing from the plan.
        (
            0,
            "1..2\nok 1 a\n# waiting ... not ok 2 b\n",
            Prints.MAYBE,
            Outcome.FAIL,
            "1 result where",
        ),
    ],
)
def test_an_exit_status_of_0_is_not_all(
    status: int, output: str, prints: Prints, outcome: Outcome, reason: str
) -> None:
    verdict = judge(Completed(status, output.encode(), 0, ""), 120, prints)
    assert (verdict.outcome, reason in verdict.reason) == (outcome, True), verdict


def test_much_output_is_read_to_its_end() -> None:
    lines = "".join(f"ok {n} test number {n}\n" for n in range(1, 50_000))
    verdict = judged(0, f"TAP version 13\n1..50000\n{lines}not ok 50000 the last\n")
    assert (verdict.outcome, verdict.reason) == (Outcome.FAIL, "the last")


def test_a_tree_says_what_its_programs_print(tmp_path: Path) -> None:
    folder = tmp_path / KVM
    sources = {
        "plain.c": "int main(void) { TEST_REQUIRE(1); }",
        "x86/counts.c": "int main(void) { ksft_print_header(); ksft_set_plan(1); }",
        "x86/suite.c": "KVM_ONE_VCPU_TEST_SUITE(some);\nTEST_HARNESS_MAIN\n",
        "skips.c": '#include "kselftest.h"\nint main(void) { ksft_exit_skip("x"); }',
        "lib/kvm_util.c": SEED,
    }
    for name, text in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    found = {name: prints(tmp_path, name.removesuffix(".c")) for name in sources}
    assert found.pop("lib/kvm_util.c")
    assert found == {
        "plain.c": Prints.SOMETHING,
        "x86/counts.c": Prints.RESULTS,
        "x86/suite.c": Prints.RESULTS,
        "skips.c": Prints.SOMETHING,
    }
    assert prints(tmp_path, "script.sh") is Prints.MAYBE
    # Older trees print no seed.
    (folder / "lib/kvm_util.c").write_text(SEED.replace("pr_info", "// pr_info of"))
    assert prints(tmp_path, "plain") is Prints.MAYBE


SEED = """\
void __attribute((constructor)) kvm_selftest_init(void)
{
\tsetbuf(stdout, NULL);
\tguest_random_seed = last_guest_seed = random();
\tpr_info("Random seed: 0x%x\\n", guest_random_seed);
}
"""


def test_what_a_target_prints_is_made_safe() -> None:
    verdict = judged(1, b"\x1b[2J\x1b]0;t\x07not ok 1 \x00\xff\nevil\x85line\n")
    assert verdict.reason == r"exit status 1; \x00\xff"
    assert "\x1b" not in verdict.details
    assert "evil\\x85line" in verdict.details


def test_a_time_out_is_told_from_a_program_that_does_not_start() -> None:
    assert was_started(completed(agent.TIMED_OUT, b"", 0))
    assert was_started(completed(4, b"", 0))
    assert not was_started(completed(agent.NOT_STARTED, b"No such file", 0))


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("guest_memfd_test", True),
        ("guest_memfd_conversions_test", True),
        ("private_mem_kvm_exits_test", True),
        ("pre_fault_memory_test", True),
        ("set_memory_region_test", True),
        ("sev_smoke_test", True),
        ("sev_init2_tests", True),
        ("debug_regs", False),
        ("hardware_disable_test", False),
        ("memslot_perf_test", False),
    ],
)
def test_what_touches_private_memory_is_the_default(name: str, default: bool) -> None:
    rule = catalogue.load().rule(name)
    assert rule.default == default
    assert 0 < rule.timeout <= catalogue.LONGEST


def test_a_machine_may_have_too_little_memory() -> None:
    rule = catalogue.load().rule("demand_paging_test")
    reason = "needs 1536 MiB of memory, the machine has 976"
    assert catalogue.lacking_memory(rule, "MemTotal:         1000000 kB\nMemFree: 1 kB\n") == reason
    assert catalogue.lacking_memory(rule, "MemTotal:         2000000 kB\n") == ""
    assert catalogue.lacking_memory(rule, None) == ""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("timeout = 0", "timeout is 0; want a number of seconds"),
        ("timeout = 120\n[[group]]\ntests = ['a']", "group 1: why is missing; want a text"),
        (
            "timeout = 120\n[[group]]\ntests = []\nwhy = 'x'",
            "group 1: tests is \\[\\]; want a list of names",
        ),
        (
            "timeout = 120\n[[group]]\ntests = ['a']\nwhy = 'x'\ntimeout = 9000",
            "group 1: timeout is 9000; want",
        ),
        (
            "timeout = 120\n[[group]]\ntests = ['a']\nwhy = 'x'\ndefalt = true",
            "defalt is no key.*did you mean default",
        ),
        (
            "timeout = 120\n[[group]]\ntests = ['a']\nwhy = 'x'\nmemory = '1G'",
            "memory is .1G.; want a whole number",
        ),
        ("timeout = 120\nx = 1", "x is no key that is known; want one of timeout, group"),
        ("timeout", "is no TOML: line 1"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "tests.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=complaint):
        catalogue.load(file)
