# SPDX-License-Identifier: GPL-2.0-only
"""What a run is of, as the first line of its results says: kernel, place, command, snptest itself.

What only the running kernel can tell (its release, its build id, the firmware) comes later, in a
line "about" (harness/report/about.py).
"""

from __future__ import annotations

import functools
import platform
import time
import uuid
from collections.abc import Sequence
from typing import Any

from harness.errors import UserError
from harness.places import ROOT
from harness.report import sanitize

UNKNOWN = "unknown"
GIT_TIMEOUT = 10.0


def describe(
    *, backend: str, kernel: str | None, label: str, command: Sequence[str]
) -> dict[str, Any]:
    """Return what a run's header says beside the options: run, started, command, built, ..."""
    return {
        "run": uuid.uuid4().hex,
        "started": round(time.time(), 3),
        "label": label,
        "command": [sanitize.address(word) for word in command],
        "harness": harness_version(),
        "node": platform.node(),
        "built": built(kernel) if backend in ("vng", "ssh") and kernel else {},
    }


def built(name: str) -> dict[str, Any]:
    """Return what a kernel was built from; {} where that is not known."""
    from harness.kbuild.kernel import get

    try:
        kernel = get(name)
    except UserError:
        return {}  # the run itself tells what is wrong
    return {
        "release": kernel.release,
        "base": kernel.base,
        "tree": kernel.tree,
        "commit": kernel.commit,
        "series": list(kernel.series),
        "config": list(kernel.fragments),
        "compiler": kernel.compiler,
        "base_commit": kernel.base_commit,
        "base_url": kernel.base_url,
        "patchset": kernel.patchset,
    }


@functools.cache
def harness_version() -> str:
    """Return snptest's own revision as `git describe` has it; UNKNOWN outside a repository."""
    from harness.kbuild.gitrun import GitError, run_git  # as above: only where it is asked for

    describe = ["describe", "--always", "--dirty", "--abbrev=12"]
    try:
        said = run_git(describe, ROOT, {}, timeout=GIT_TIMEOUT)
    except (GitError, UserError, OSError):
        return UNKNOWN
    return said.decode(errors="replace").strip() or UNKNOWN
