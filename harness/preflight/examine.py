# SPDX-License-Identifier: GPL-2.0-only
"""Runs the collector on this machine; harness/ssh/examine.py runs the same on a remote one."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
from pathlib import Path

from harness.errors import UserError
from harness.preflight.finding import Finding
from harness.preflight.judge import judge

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
