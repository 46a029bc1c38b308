# SPDX-License-Identifier: GPL-2.0-only
"""Runs the collector of harness/preflight on a remote machine."""

from __future__ import annotations

from typing import Any

from harness.preflight.examine import COLLECTOR
from harness.preflight.finding import Finding
from harness.preflight.judge import judge
from harness.ssh.connection import Connection
from harness.ssh.remote import Remote


def examine(connection: Connection) -> tuple[list[Finding], dict[str, Any]]:
    """Examine a remote machine; the evidence, too.  HostError where python3 does not start."""
    remote = Remote(connection, COLLECTOR, {})
    try:
        evidence = remote.answer()
    finally:
        remote.close()
    return judge(evidence), evidence
