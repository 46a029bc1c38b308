# SPDX-License-Identifier: GPL-2.0-only
"""KCIDB: a stored run as kernelci.org's database takes it (I/O schema 5.3, package kcidb-io).

A checkout and a build are what the run's kernel was made of, a test is a result.  Text that came
from a target is an excerpt of at most 16 KiB.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from typing import Any

from harness.history.runs import StoredRun
from harness.report import names
from harness.report.outcome import Outcome, Result
from harness.report.words import counted

VERSION = {"major": 5, "minor": 3}
ORIGIN = "snptest"
_TAG = re.compile(r"v[0-9]+\.[0-9]+[0-9.]*(?:-rc[0-9]+)?")
"""Of a release: what `git describe` says of its commit."""
_KERNEL_ORG = re.compile(
    r"https://git\.kernel\.org/pub/scm/(?:linux/kernel/git|virt)/([\w-]+)/([\w-]+?)(?:\.git)?/?"
)
EXCERPT = 16384
"""Characters that the schema allows."""
_STATUS = {
    Outcome.PASS: "PASS",
    Outcome.FAIL: "FAIL",
    Outcome.CRASH: "FAIL",
    Outcome.XFAIL: "FAIL",  # it failed; that it is known stands in misc
    Outcome.ERROR: "ERROR",
    Outcome.SKIP: "SKIP",
}


def report(run: StoredRun, results: Sequence[Result], origin: str = ORIGIN) -> dict[str, Any]:
    """Return the report; `origin` is the name under which the CI system is known there."""
    kernel = run.kernel
    source = [kernel.base, kernel.tree, kernel.commit, *kernel.series]
    checkout = _id(origin, *(source if any(source) else [run.harness, kernel.release]))
    build = _id(origin, checkout, *kernel.config, kernel.compiler, kernel.release, kernel.build_id)
    return {
        "version": VERSION,
        "checkouts": [_checkout(run, checkout, origin)],
        "builds": [_build(run, build, checkout, origin)],
        "tests": [
            {**_test(run, number, result, build, origin), "path": path}
            for number, (result, path) in enumerate(zip(results, paths(results), strict=True))
        ],
    }


def _checkout(run: StoredRun, own: str, origin: str) -> dict[str, Any]:
    kernel = run.kernel
    comment = kernel.base
    if kernel.series:
        comment += f" with {counted(len(kernel.series), 'patch', 'patches')}"
    misc = {"tree": kernel.tree, "series": list(kernel.series), "commit": kernel.commit}
    # kernel.commit is one of our own cache; what others can fetch is the base's.
    public = kernel.base_commit if re.fullmatch(r"[0-9a-f]{40}", kernel.base_commit) else ""
    url = kernel.base_url if public and kernel.base_url.startswith("https://") else ""
    where, _, name = kernel.base.rpartition("@")
    tagged = public and where and _TAG.fullmatch(name)
    known = re.fullmatch(r"[0-9a-f]{64}", kernel.patchset) or (public and not kernel.patchset)
    # "" says that there is no patch, and must stay.
    patchset = {"patchset_hash": kernel.patchset} if known else {}
    return patchset | _filled(
        {
            "id": own,
            "origin": origin,
            "git_commit_hash": public,
            "git_commit_name": name if tagged else "",
            "git_repository_url": url,
            "tree_name": tree_name(url),
            "comment": comment or run.what,
            "valid": True,
            "misc": _filled(misc),
        }
    )


def tree_name(url: str) -> str:
    """Return the name by which a tree is known; "" where it is none of git.kernel.org's."""
    match = _KERNEL_ORG.fullmatch(url)
    if match is None:
        return ""
    owner, name = match.groups()
    return {"torvalds": "mainline"}.get(owner, name)


def _build(run: StoredRun, own: str, checkout: str, origin: str) -> dict[str, Any]:
    kernel = run.kernel
    misc = {"name": kernel.name, "release": kernel.release, "build_id": kernel.build_id}
    return _filled(
        {
            "id": own,
            "checkout_id": checkout,
            "origin": origin,
            "architecture": "x86_64",
            "compiler": kernel.compiler,
            "config_name": "+".join(kernel.config),
            "status": "PASS",
            "misc": _filled(misc),
        }
    )


def _test(run: StoredRun, number: int, result: Result, build: str, origin: str) -> dict[str, Any]:
    place = {
        "backend": run.backend,
        "machine": run.machine,
        "host": run.host,
        "firmware": run.firmware,
    }
    texts = (result.reason, result.details, result.console)
    excerpt = "\n".join(filter(None, texts)) if result.outcome.bad else result.reason
    misc = {
        "id": result.id,
        "outcome": str(result.outcome),
        "interface": result.interface,
        "patches": list(result.patches),
        "areas": list(result.areas),
        "run": run.id,
        "snptest": run.harness,
    }
    return _filled(
        {
            "id": _id(origin, run.key, str(number)),
            "build_id": build,
            "origin": origin,
            "status": _STATUS[result.outcome],
            "comment": result.description,
            "log_excerpt": excerpt[-EXCERPT:],
            "start_time": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(run.started)),
            "duration": result.seconds,
            "environment": _filled({"comment": run.where, "misc": _filled(place)}),
            "misc": _filled(misc),
        }
    )


def paths(results: Sequence[Result]) -> list[str]:
    """Return each result's place in the tree of tests; below it where a test is repeated: .run2."""
    return names.numbered((path_of(result) for result in results), ".run")


def path_of(result: Result) -> str:
    """Return a test's place in the tree of tests: snptest.SUITE.FILE.NAME.PARAMETERS."""
    file, _, name = result.id.partition("::")
    parts = [result.suite, file.rpartition("/")[2].removesuffix(".py").removeprefix("test_")]
    name, _, parameters = name.partition("[")
    parts += [name.removeprefix("test_"), parameters.removesuffix("]")]
    clean = (re.sub(r"[^a-zA-Z0-9_-]+", "_", part).strip("_") for part in parts)
    return ".".join(["snptest", *filter(None, clean)])


def _id(origin: str, *parts: str) -> str:
    return f"{origin}:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not known: the schema has no nulls."""
    return {key: value for key, value in fields.items() if value not in ("", None, [], {})}
