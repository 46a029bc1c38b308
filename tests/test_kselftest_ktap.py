# SPDX-License-Identifier: GPL-2.0-only
"""What selftests print, read: every shape that the kernel's own frameworks give it."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.kselftest.document import Case, Document, Status
from harness.kselftest.ktap_parse import MAX_DEPTH, MAX_DIAGNOSTICS, parse
from harness.report import ktap as ktap_report
from harness.report.outcome import Outcome, Result


def read(text: str) -> Document:
    return parse(textwrap.dedent(text))


def statuses(document: Document) -> dict[str, Status]:
    return {path: case.status for path, case in document.leaves()}


def test_plain_results() -> None:
    document = read(
        """\
        TAP version 13
        1..2
        # Starting 2 tests
        ok 1 global.create
        not ok 2 global.punch
        # Totals: pass:1 fail:1 xfail:0 xpass:0 skip:0 error:0
        """
    )
    assert statuses(document) == {"global.create": Status.PASS, "global.punch": Status.FAIL}
    assert document.cases[0].diagnostics == ("Starting 2 tests",)
    assert [case.number for case in document.cases] == [1, 2]
    assert document.rest[0].startswith("Totals: ")
    assert document.problems == ()
    assert list(document.failures()) == [("global.punch", "")]
    assert document.bad


@pytest.mark.parametrize(
    ("line", "status", "name", "reason"),
    [
        ("ok 1 a", Status.PASS, "a", ""),
        ("ok 1 - a", Status.PASS, "a", ""),
        ("ok 1", Status.PASS, "unnamed 1", ""),
        ("not ok 1 - a b", Status.FAIL, "a b", ""),
        ("ok 1 a # SKIP no SNP", Status.SKIP, "a", "no SNP"),
        ("not ok 1 a # SKIP no SNP", Status.SKIP, "a", "no SNP"),
        ("ok 1 a # skip: no SNP", Status.SKIP, "a", "no SNP"),
        ("ok 1 a # Skipped", Status.SKIP, "a", ""),
        ("ok 1 # SKIP no SNP", Status.SKIP, "no SNP", "no SNP"),
        ("ok 1 a # SKIPPER", Status.PASS, "a", "SKIPPER"),
        ("not ok 1 a # TODO later", Status.XFAIL, "a", "later"),
        ("ok 1 a # TODO later", Status.PASS, "a", "later"),
        ("ok 1 # XFAIL a", Status.XFAIL, "a", "a"),
        ("not ok 1 a # XFAIL", Status.XFAIL, "a", ""),
        ("ok 1 a # XPASS", Status.FAIL, "a", ""),
        ("not ok 1 a # TIMEOUT 30 seconds", Status.FAIL, "a", "30 seconds"),
        ("ok 1 a # TIMEOUT", Status.FAIL, "a", ""),
        ("not ok 1 # error a", Status.FAIL, "error a", "error a"),
        ("ok 1 a # error count 0", Status.PASS, "a", "error count 0"),
        ("ok 1 a # ERRORS 0", Status.PASS, "a", "ERRORS 0"),
        ("ok 1 a #  data", Status.PASS, "a", "data"),
        (r"ok 1 a\#b # SKIP c\#d", Status.SKIP, "a#b", "c#d"),
        ("ok 1 a#b", Status.PASS, "a#b", ""),
        ("ok 1 a\r", Status.PASS, "a", ""),
    ],
)
def test_result_lines(line: str, status: Status, name: str, reason: str) -> None:
    (case,) = parse(f"TAP version 13\n1..1\n{line}\n").cases
    assert (case.status, case.name, case.reason) == (status, name, reason)
    assert case.bad == (status is Status.FAIL)


@pytest.mark.parametrize(
    "line",
    [
        "okay 1 a",
        "ok1 a",
        "notok 1 a",
        "not  ok 1 a",
        "OK 1 a",
        "ok then, all is well",
        "nok 1",
        "ok",
    ],
)
def test_prose_is_no_result(line: str) -> None:
    document = parse(f"{line}\n")
    assert not document.found
    assert document.rest[0] == line


def test_results_without_a_version_line_count() -> None:
    """An exit status of 0 must not hide them."""
    document = parse("Random seed: 0x6b8b4567\nok 1 a\nnot ok 2 b\n")
    assert statuses(document) == {"a": Status.PASS, "b": Status.FAIL}
    assert document.cases[0].diagnostics == ("Random seed: 0x6b8b4567",)


def test_results_without_numbers_count_in_a_document() -> None:
    document = parse("TAP version 14\nok - a\nnot ok\n1..2\n")
    assert statuses(document) == {"a": Status.PASS, "unnamed 2": Status.FAIL}
    assert document.problems == ()


def test_all_skipped() -> None:
    document = parse("1..0 # SKIP - Requirement not met: kvm_cpu_has(X86_FEATURE_SEV)\n")
    assert document.skipped == "- Requirement not met: kvm_cpu_has(X86_FEATURE_SEV)"
    assert document.found
    assert not document.bad
    assert parse("1..0\n").skipped is None


def test_the_nested_example_of_the_specification() -> None:
    document = read(
        """\
        KTAP version 1
        1..1
          KTAP version 1
          1..3
            KTAP version 1
            1..1
            # test_1: initializing test_1
            ok 1 test_1
          ok 1 example_test_1
            KTAP version 1
            1..2
            ok 1 test_1 # SKIP test_1 skipped
            ok 2 test_2
          ok 2 example_test_2
            KTAP version 1
            1..3
            ok 1 test_1
            # test_2: FAIL
            not ok 2 test_2
            ok 3 test_3 # SKIP test_3 skipped
          not ok 3 example_test_3
        not ok 1 main_test
        """
    )
    assert statuses(document) == {
        "main_test/example_test_1/test_1": Status.PASS,
        "main_test/example_test_2/test_1": Status.SKIP,
        "main_test/example_test_2/test_2": Status.PASS,
        "main_test/example_test_3/test_1": Status.PASS,
        "main_test/example_test_3/test_2": Status.FAIL,
        "main_test/example_test_3/test_3": Status.SKIP,
    }
    assert list(document.failures()) == [("main_test/example_test_3/test_2", "")]
    assert document.counts == {Status.PASS: 3, Status.SKIP: 2, Status.FAIL: 1}
    last = document.cases[0].children
    assert last is not None
    assert last.cases[2].children is not None
    assert last.cases[2].children.cases[1].diagnostics == ("test_2: FAIL",)


def test_kunit_nests_without_a_version_line() -> None:
    document = read(
        """\
        TAP version 14
        1..1
            # Subtest: memory
            1..2
            ok 1 - shared
            not ok 2 - private
        not ok 1 - memory
        """
    )
    assert list(document.failures()) == [("memory/private", "")]


def test_a_parent_that_passes_in_spite_of_a_child_has_failed() -> None:
    document = read(
        """\
        KTAP version 1
        1..1
          KTAP version 1
          1..1
          not ok 1 child
        ok 1 parent
        """
    )
    assert document.cases[0].status is Status.PASS
    assert document.bad
    assert list(document.failures()) == [("parent/child", "")]


@pytest.mark.parametrize("directive", ["TODO", "XFAIL"])
def test_a_child_of_what_may_fail_may_fail(directive: str) -> None:
    document = read(
        f"""\
        KTAP version 1
        1..1
          KTAP version 1
          1..1
          not ok 1 child
        not ok 1 parent # {directive}
        """
    )
    assert not document.bad


@pytest.mark.parametrize("said", ["ok", "not ok"])
def test_a_child_that_fails_is_no_skip(said: str) -> None:
    """What a skipped test left undone does not matter; what failed in it does."""
    nested = "KTAP version 1\n1..1\n  KTAP version 1\n  1..2\n"
    document = parse(f"{nested}  not ok 1 child\n{said} 1 parent # SKIP no SNP\n")
    assert document.bad
    assert ("parent/child", "") in document.failures()
    assert not parse(f"{nested}  ok 1 child\n{said} 1 parent # SKIP no SNP\n").bad


TOTALS = "# Totals: pass:{} fail:{} xfail:0 xpass:0 skip:{} error:0\n"
RESULTS = "TAP version 13\n1..3\nok 1 a\nok 2 b\nok 3 c # SKIP no SNP\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (RESULTS + TOTALS.format(2, 0, 1), None),
        (RESULTS + TOTALS.format(1, 1, 1), "its totals say fail:1, and no result line does"),
        ("TAP version 13\n" + TOTALS.format(3, 1, 0), "its totals say fail:1"),
        (RESULTS + TOTALS.format(3, 0, 1), "its totals count 4 results, and it printed 3"),
        # Two programs of one script: each has its own plan and totals.
        (RESULTS + TOTALS.format(2, 0, 1) + RESULTS + TOTALS.format(2, 0, 1), None),
        # KUnit counts those of all levels.
        (
            "KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: s\n    1..2\n    ok 1 a\n"
            "    ok 2 b\n# s: pass:2 fail:0 skip:0 total:2\n"
            "# Totals: pass:2 fail:0 skip:0 total:2\nok 1 s\n",
            None,
        ),
        ("1..2\nok 1 a\nok 1 a\n", "result 1 came 2 times, and 2 did not"),
        # ksft_exit_skip() counts before it numbers: nothing came twice.
        ("1..2\nok 1 a\nok 3 # SKIP b\n", None),
        ("ok 1 a\nok 1 a\n", None),
    ],
)
def test_what_a_program_counted_is_compared_with_its_lines(text: str, problem: str | None) -> None:
    document = parse(text)
    assert document.bad is (problem is not None)
    assert [each for each in document.problems if problem and problem in each] or problem is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        # As run_kselftest.sh and MPTCP's tests have those of the programs that they run.
        ("# not ok 2 sub\nok 1 outer\n", "a comment has a result that failed: sub"),
        ("# # not ok 2\nok 1 outer\n", "a comment has a result that failed: number 2"),
        ("# ok 2 sub\nok 1 outer\n", None),
        ("# not ok 2 sub # SKIP no SNP\nok 1 outer\n", None),
        ("# not ok 2 sub # TODO later\nok 1 outer\n", None),
        ("# not ok, all is well\nok 1 outer\n", None),
        ("# Planned tests != run tests (3 != 1)\nok 1 outer\n", "it says: Planned tests != run"),
        ("\tnot ok 1 inner\nok 1 outer\n", ""),
    ],
)
def test_failures_in_other_places_than_result_lines(text: str, problem: str | None) -> None:
    document = parse(f"TAP version 13\n1..1\n{text}")
    assert document.bad is (problem is not None)
    assert not problem or any(problem in each for each in document.problems)


def test_totals_of_failures_are_failures() -> None:
    assert parse("# Totals: pass:3 fail:0 xfail:0 xpass:0 skip:0 error:2\n").failed
    assert not parse("# Totals: pass:3 fail:0 xfail:2 xpass:0 skip:0 error:0\n").failed


@pytest.mark.parametrize("stamp", ["[   12.345678] ", "<6>[    0.000001] ", "[12345.678901]"])
def test_results_that_went_through_the_kernels_log(stamp: str) -> None:
    lines = ["KTAP version 1", "1..1", "    KTAP version 1", "    1..1", "    not ok 1 x", "ok 1 s"]
    document = parse("".join(f"{stamp}{line}\n" for line in lines))
    assert statuses(document) == {"s/x": Status.FAIL}
    assert document.bad


def test_the_kernels_own_lines_between_results_do_not_matter() -> None:
    noise = "[   12.345678] kvm: SMP vm created on host with unstable TSC\n"
    document = parse(f"TAP version 13\n{noise}1..2\nok 1 a\n{noise}not ok 2 b\n{noise}")
    assert statuses(document) == {"a": Status.PASS, "b": Status.FAIL}


def test_missing_results_are_told() -> None:
    document = parse("TAP version 13\n1..3\nok 1 a\nSegmentation fault\n")
    assert document.problems == ("1 result where 3 were planned",)
    assert list(document.failures()) == [("", "1 result where 3 were planned")]
    assert document.rest == ("Segmentation fault",)


def test_more_results_than_planned_are_told() -> None:
    document = parse("TAP version 13\n1..1\nok 1 a\nok 2 b\n")
    assert document.problems == ("2 results where 1 were planned",)


def test_nested_results_that_nothing_ends_are_missing_their_parent() -> None:
    document = read(
        """\
        KTAP version 1
        1..2
        ok 1 first
          KTAP version 1
          # Subtest: second
          1..3
          ok 1 a
        """
    )
    assert [case.status for case in document.cases] == [Status.PASS, Status.MISSING]
    assert list(document.failures()) == [("second", "1 result where 3 were planned")]


def test_nested_results_whose_parent_alone_is_missing() -> None:
    document = parse("KTAP version 1\n1..1\n  KTAP version 1\n  1..1\n  ok 1 a\n")
    assert list(document.failures()) == [("unnamed 1", "it has no result of its own")]


def test_nothing_after_bail_out_is_waited_for() -> None:
    document = parse("TAP version 13\n1..2\nok 1 a\n    Bail out! no memory\n")
    assert document.bailed == "no memory"
    assert document.problems[0] == "bailed out: no memory"
    assert document.bad
    assert parse("Bail out!\n").problems == ("bailed out",)


def test_programs_one_after_the_other_have_plans_that_add_up() -> None:
    one = "TAP version 13\n1..2\nok 1 a\nok 2 b\n"
    assert parse(one + one).problems == ()
    assert parse(one + one.replace("ok 2 b\n", "")).problems == ("3 results where 4 were planned",)


def test_what_a_target_prints_is_bounded() -> None:
    deep = "".join(f"{'  ' * n}KTAP version 1\n{'  ' * n}1..1\n" for n in range(2000))
    document = parse(deep)
    depth = 0
    while document.cases and document.cases[0].children:
        document, depth = document.cases[0].children, depth + 1
    assert 0 < depth < MAX_DEPTH
    assert not parse("1.." + "9" * 5000).found
    assert parse("ok " + "9" * 5000).cases == ()
    (case,) = parse("text\n" * 1000 + "ok 1 " + "x" * 5000).cases
    assert len(case.diagnostics) == MAX_DIAGNOSTICS
    assert len(case.name) == 200


def test_our_own_reports_can_be_read() -> None:
    """What harness/report writes comes back: outcome by outcome, names and reasons."""
    results = [
        Result("suites/x/test_a.py::one", "x", "v12", Outcome.PASS, 0.1),
        Result("suites/x/test_a.py::two#2", "x", "v12", Outcome.FAIL, 0.1, reason="ok 1 no"),
        Result("suites/y/test_b.py::three", "y", "", Outcome.SKIP, 0.1, reason="no # SNP"),
        Result("suites/y/test_b.py::four", "y", "", Outcome.XFAIL, 0.1, reason="known"),
    ]
    document = parse(ktap_report.render(results))
    assert statuses(document) == {
        "x[v12]/x/test_a.py::one": Status.PASS,
        "x[v12]/x/test_a.py::two#2": Status.FAIL,
        "y/y/test_b.py::three": Status.SKIP,
        "y/y/test_b.py::four": Status.XFAIL,
    }
    assert document.problems == ()
    assert [case.reason for _, case in document.leaves()] == ["", "", "no # SNP", "known"]


LINES = st.sampled_from(
    [
        "TAP version 13",
        "KTAP version 1",
        "1..2",
        "1..0 # SKIP x",
        "ok 1 a",
        "not ok 2 b",
        "ok",
        "- x",
    ]
    + [
        "ok 1 a # SKIP b",
        "# Subtest: c",
        "# d",
        "Bail out! e",
        "text",
        "",
        "\x1b[2J",
        "ok 3 # TODO",
    ]
)


@given(st.lists(st.tuples(st.integers(0, 5), LINES), max_size=40))
def test_any_order_of_lines_can_be_read(lines: list[tuple[int, str]]) -> None:
    document = parse("\n".join("  " * indent + line for indent, line in lines))
    assert document.bad == bool(list(document.failures()))
    assert sum(document.counts.values()) == len(list(document.leaves()))
    numbered = sum(line.startswith(("ok 1", "ok 3", "not ok")) for _, line in lines)
    ours = sum(case.status is not Status.MISSING for case in _all(document))
    assert ours >= numbered


def _all(document: Document) -> list[Case]:
    return [
        each
        for case in document.cases
        for each in [case, *(_all(case.children) if case.children else [])]
    ]


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    document = parse(text)
    assert document.bad == bool(list(document.failures()))
