# SPDX-License-Identifier: GPL-2.0-only
"""Report files: there whole, or as they were before."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write a file in one step; OSError, with its name, where that is not possible.

    Pipes and devices are written to as they are, and so is a file whose folder takes no new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    target = Path(os.path.realpath(path))  # a link stays one
    scratch = target.with_name(f".{target.name}.{os.getpid()}.new")
    direct = path.exists() and (not path.is_file() or not os.access(target.parent, os.W_OK))
    try:
        if direct:
            path.write_text(text, encoding="utf-8")
            return
        scratch.write_text(text, encoding="utf-8")
        if target.exists():
            scratch.chmod(target.stat().st_mode & 0o7777)
        scratch.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
