# SPDX-License-Identifier: GPL-2.0-only
"""Series from the mailing list's archive, by message id or address, through b4."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

from harness.errors import BuildError, UsageError
from harness.report import sanitize

B4_TIMEOUT = 300.0
_ID = re.compile(r"<?([A-Za-z0-9][^\s<>/@]*@[A-Za-z0-9.-]+)>?")
_HOSTS = frozenset({"lore.kernel.org", "patch.msgid.link", "patchwork.kernel.org", "msgid.link"})


def message_id(spec: str) -> str | None:
    """Return the message id that a --series names, None if it names none."""
    if match := _ID.fullmatch(spec):
        return match[1]
    address = urllib.parse.urlsplit(spec)
    if address.scheme not in ("http", "https") or address.hostname not in _HOSTS:
        return None
    for part in urllib.parse.unquote(address.path).split("/"):
        if match := _ID.fullmatch(part):
            return match[1]
    raise UsageError(
        f"--series {spec} names no message", "https://lore.kernel.org/kvm/<message id>/"
    )


def fetch(identifier: str, folder: Path) -> Path:
    """Let b4 put a series in order into a maildir; return that.

    b4 completes the thread, takes the patches of the version named, sorts them, and adds the
    trailers that reviewers gave.  BuildError in one line where it could not.
    """
    b4 = Path(sys.executable).with_name("b4")
    program = str(b4) if b4.exists() else shutil.which("b4")
    if program is None:
        raise UsageError("b4 is not there", "start snptest by ./snptest, which installs it")
    command = [
        *(program, "-c", "b4.attestation-policy=off", "am", "--no-cover", "--save-as-maildir"),
        *("--mbox-name", "series", "--outdir", str(folder), identifier),
    ]
    hint = "offline? save the thread's mbox elsewhere and give that to --series"
    with tempfile.TemporaryDirectory(prefix="snptest-b4-") as elsewhere:
        try:
            done = subprocess.run(
                command,
                cwd=elsewhere,  # not in a repository, whose configuration b4 would take
                env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=B4_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"b4 did not get {identifier} within {B4_TIMEOUT:g} s", hint) from None
    found = next(folder.glob("series*.maildir"), None)
    if done.returncode or found is None:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        # Of the attempts and retries that it tells of, the last line is the outcome.
        reason = lines[-1].partition(": HTTPSConnectionPool")[0] if lines else "it gave no reason"
        raise BuildError(f"b4 could not get {identifier}: {sanitize.line(reason)}", hint)
    return found
