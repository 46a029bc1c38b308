# SPDX-License-Identifier: GPL-2.0-only
"""Short commands of other programs: no input, a deadline, what they print kept."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import BuildError


def captured(
    command: Sequence[str | Path],
    timeout: float,
    late: str,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, however that is; BuildError, "`late` within N s", where it hangs.

    FileNotFoundError where there is no such program.
    """
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{late} within {timeout:g} s") from None
