# SPDX-License-Identifier: GPL-2.0-only
"""Splats and known issues in pytest's reports: the part between the plugin and `judge`.

What a boot printed becomes a result of its own, "boot::KERNEL", told once a run however often
the kernel is booted; so does SNP that is off though the machine has it.  It is no test's fault,
and a warning at boot must neither fail the test that happens to come first nor all of them; but
it is the kernel's, so it fails the run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from harness.errors import UserError
from harness.pool import Boot, KernelPool, Sighting
from harness.report import sanitize
from harness.report.facts import Facts
from harness.report.outcome import BOOT, Outcome, Result
from harness.splats import symbols
from harness.splats.extract import Splat
from harness.splats.judge import Judgement, judge
from harness.splats.known import KnownIssues, Where

MAX_DECODED = 5
"""Blocks of one result that are symbolised; what comes after the first is mostly echo."""


def allowed(item: pytest.Item) -> list[re.Pattern[str]]:
    """Return the patterns of the test's `splat` markers; UserError for a marker without one."""
    patterns = []
    for mark in item.iter_markers("splat"):
        try:
            patterns.append(re.compile(*mark.args))
        except (TypeError, re.error) as error:
            raise UserError(
                f"marker splat{mark.args}: {error}", "it takes one regular expression"
            ) from None
    return patterns


def boots_of(pool: KernelPool, known: KnownIssues, backend: str) -> list[Result]:
    """Return the results of boots that were not silent."""
    return [_boot_result(boot, known, backend) for boot in pool.new_boots()]


def _boot_result(boot: Boot, known: KnownIssues, backend: str) -> Result:
    splats = [each.splat for each in boot.sightings]
    why = boot.without_snp
    judgement = judge(
        Outcome.FAIL if why else Outcome.PASS,
        why,
        splats=splats,
        known=known,
        where=boot.where,
        complete=False,
    )
    return Result(
        id=f"{BOOT}::{boot.kernel}[{boot.interface}]"
        if boot.interface
        else f"{BOOT}::{boot.kernel}",
        suite=BOOT,
        interface=boot.interface,
        outcome=judgement.outcome,
        seconds=0.0,
        description="The kernel boots without a warning, and has SNP where its machine does.",
        reason=judgement.reason,
        details=blocks(boot.sightings, judgement.splats),
        console=sanitize.tail(boot.console),
        backend=backend,
    )


def apply(
    item: pytest.Item,
    report: pytest.TestReport,
    facts: Facts,
    pool: KernelPool | None,
    known: KnownIssues,
    where: Where,
) -> None:
    """Judge a phase again by the kernel's log and the known issues; changes report and facts."""
    if report.when == "setup" and report.passed:
        return  # judged with the call, which is to run whatever the setup made the kernel print
    if report.failed and facts.verdict is None:
        return  # XPASS of pytest's own marker
    try:
        patterns = allowed(item)
    except UserError:
        patterns = []  # the setup failed of it
    sightings = pool.new_splats() if pool is not None else []
    before, reason = _state(report, facts)
    judgement = judge(
        before,
        reason,
        splats=[each.splat for each in sightings],
        known=known,
        where=where,
        allowed=patterns,
        details=report.longreprtext,
        complete=report.when == "call",
    )
    if judgement.splats:
        facts.splats = blocks(sightings, judgement.splats)
    if pool is not None and (judgement.splats or before.bad):
        facts.console = sanitize.tail(pool.console())
    if judgement != Judgement(before, reason):
        _write(report, facts, before, judgement)


def _state(report: pytest.TestReport, facts: Facts) -> tuple[Outcome, str]:
    if hasattr(report, "wasxfail"):
        return Outcome.XFAIL, str(report.wasxfail)
    if report.failed and facts.verdict is not None:
        return facts.verdict, facts.reason
    if report.skipped:
        return Outcome.SKIP, facts.reason
    return Outcome.PASS, ""


def _write(report: pytest.TestReport, facts: Facts, before: Outcome, judgement: Judgement) -> None:
    match judgement.outcome:
        case Outcome.XFAIL:
            report.outcome = "skipped"
            report.wasxfail = judgement.reason
            return
        case Outcome.SKIP:
            facts.reason = judgement.reason
            return
        case Outcome.PASS:
            return
    facts.verdict, facts.reason = judgement.outcome, judgement.reason
    if not before.bad:
        report.outcome = "failed"
        if hasattr(report, "wasxfail"):
            del report.wasxfail
        report.longrepr = f"{judgement.reason}\n\n{facts.splats}".strip()
    elif facts.splats:
        report.sections.append(("what the kernel printed", facts.splats))


def blocks(sightings: Sequence[Sighting], told: Sequence[Splat]) -> str:
    """Return the blocks of those splats that are told, the first ones symbolised."""
    texts: list[str] = []
    for sighting in sightings:
        splat = sighting.splat
        if splat not in told:
            continue
        if sighting.symbols is not None and len(texts) < MAX_DECODED:
            texts.append(symbols.decode(splat.block, sighting.symbols))
        else:
            texts.append(splat.block)
    return "\n\n".join(texts)
