# SPDX-License-Identifier: GPL-2.0-only
"""Runs the collector, on this machine or on a remote one: the same program on both."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.preflight.finding import Finding
from harness.preflight.judge import judge

if TYPE_CHECKING:
    from harness.ssh.connection import Connection

COLLECTOR = Path(__file__).parent / "collect.py"
TIMEOUT = 60.0


def here() -> list[Finding]:
    """Examine this machine."""
    mark = secrets.token_hex(16)
    options = base64.b64encode(json.dumps({"mark": mark}).encode()).decode()
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(COLLECTOR), options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=True,
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise UserError(f"this machine could not be examined: {error}") from None
    return judge(json.loads(done.stdout.rpartition(f"\n{mark} ")[2]))


def there(connection: Connection) -> tuple[list[Finding], dict[str, Any]]:
    """Examine a remote machine; the evidence, too.  HostError where python3 does not start."""
    from harness.ssh.remote import Remote

    remote = Remote(connection, COLLECTOR, {})
    try:
        evidence = remote.answer()
    finally:
        remote.close()
    return judge(evidence), evidence
