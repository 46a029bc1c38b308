# SPDX-License-Identifier: GPL-2.0-only
"""The JUnit report: a test suite per suite and interface, console and details attached."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from junit_xml import TestCase, TestSuite, to_xml_report_string

from harness.report import names
from harness.report.outcome import Outcome, Result


def render(results: Sequence[Result], properties: dict[str, str]) -> str:
    """Return the JUnit document as text."""
    # Readers know a case by class name and name, which are the two halves of this.
    called = names.numbered(names.of(result) for result in results)
    ordered = sorted(zip(called, results, strict=True), key=_group)
    suites = [
        TestSuite(_title(key), [_case(*each) for each in group], properties=properties)
        for key, group in itertools.groupby(ordered, key=_group)
    ]
    text = to_xml_report_string(suites, prettyprint=False)
    assert isinstance(text, str)
    return text


def _group(each: tuple[str, Result]) -> tuple[str, str]:
    return each[1].suite, each[1].interface


def _title(key: tuple[str, str]) -> str:
    suite, interface = key
    return f"{suite}[{interface}]" if interface else suite


def _case(called: str, result: Result) -> Any:
    module = result.id.partition("::")[0]
    name = called.partition("::")[2] or called
    console = [f"=== console ===\n{result.console}"] if result.console else []
    output = [result.output] if result.output else []
    case = TestCase(
        name,
        classname=module.removesuffix(".py").replace("/", "."),
        elapsed_sec=result.seconds,
        stdout="\n".join([result.description] * bool(result.description) + output + console),
        file=module,
    )
    # junit-xml leaves a failure without message and output out.
    reason = result.reason or "no reason given"
    match result.outcome:
        case Outcome.FAIL:
            case.add_failure_info(reason, result.details, failure_type="fail")
        case Outcome.CRASH:
            # JUnit knows no crash; as an error it stays apart from a wrong answer.
            case.add_error_info(f"crash: {reason}", result.details, error_type="crash")
        case Outcome.ERROR:
            case.add_error_info(reason, result.details, error_type="error")
        case Outcome.SKIP:
            case.add_skipped_info(reason)
        case Outcome.XFAIL:
            case.add_skipped_info(f"known issue: {reason}")
        case Outcome.PASS:
            pass
    return case
