# SPDX-License-Identifier: GPL-2.0-only
"""Threads of the mailing lists' archive, by message id or address: b4 gets them.

b4 decides nothing: which patches of a thread are the series is judged by harness.kbuild.choice,
as for any other mails.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from harness.errors import BuildError, UsageError
from harness.kbuild import mails
from harness.kbuild.gitrun import inherited
from harness.kbuild.mails import Mail
from harness.report import sanitize

B4_TIMEOUT = 300.0
READ_TIMEOUT = 60.0
_BARE = re.compile(r"[\w=+$][^\s<>/@:]*@[A-Za-z0-9._-]+")
_MARKED = re.compile(r"(?i)(?:message-id:\s*<?|mid:|id:|<)\s*([^\s<>@]+@[^\s<>]+?)>?")
_LISTS = frozenset({"lore.kernel.org", "lkml.kernel.org", "patch.msgid.link", "msgid.link"})
_HINT = "offline? save the thread's mbox elsewhere and give that to --series"
_FORMS = "https://lore.kernel.org/kvm/<message id>/, or the message id alone"


def message_id(spec: str) -> str | None:
    """Return the message id that a --series names, None if it names none."""
    spec = spec.strip()
    if match := _BARE.fullmatch(spec) or _MARKED.fullmatch(spec):
        return match[1] if match.re is _MARKED else match[0]
    address = _address(spec)
    if address is None:
        return None
    known = address.hostname in _LISTS
    if known or "patchwork" in (address.hostname or ""):
        for part in address.path.split("/"):
            if match := _BARE.fullmatch(urllib.parse.unquote(part).strip("<>")):
                return match[0]
    if address.hostname == "marc.info":
        for found in urllib.parse.parse_qs(address.query).get("i", []):
            return found
    if known:
        raise UsageError(f"--series {spec} names no message", _FORMS)
    return None


def is_address(spec: str) -> bool:
    """Whether a --series is the address of something else that can be downloaded."""
    return _address(spec) is not None


def _address(spec: str) -> urllib.parse.SplitResult | None:
    address = urllib.parse.urlsplit(spec)
    return address if address.scheme in ("http", "https") and address.hostname else None


def fetch(identifier: str, *, newest: bool = False) -> list[Mail]:
    """Let b4 get the whole thread of a message, and with `newest` those of later versions.

    BuildError in one line where it could not.
    """
    b4 = Path(sys.executable).with_name("b4")
    program = str(b4) if b4.exists() else shutil.which("b4")
    if program is None:
        raise UsageError("b4 is not there", "start snptest by ./snptest, which installs it")
    with tempfile.TemporaryDirectory(prefix="snptest-b4-") as elsewhere:
        folder = Path(elsewhere) / "thread"
        command = [program, "--no-interactive", "mbox", "--save-as-maildir"]
        command += ["--check-newer-revisions"] if newest else []
        command += ["--mbox-name", folder.name, "--outdir", elsewhere, identifier]
        try:
            done = subprocess.run(
                command,
                cwd=elsewhere,  # not in a repository, whose configuration b4 would take
                env={**inherited(), "GIT_TERMINAL_PROMPT": "0"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=B4_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BuildError(
                f"b4 did not get {identifier} within {B4_TIMEOUT:g} s", _HINT
            ) from None
        found = mails.read_maildir(folder) if (folder / "cur").is_dir() else []
    if done.returncode or not found:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        # Of the attempts and retries that it tells of, the last line is the outcome.
        reason = lines[-1].partition(": HTTPSConnectionPool")[0] if lines else "it gave no reason"
        raise BuildError(f"b4 could not get {identifier}: {sanitize.line(reason)}", _HINT)
    return mails.renumbered(identifier, found)


def download(spec: str) -> list[Mail]:
    """Download mails or a patch: a series of patchwork, an mbox, a .patch of some forge.

    BuildError: it cannot be downloaded, or what comes is a web page.
    """
    url = _of_patchwork(spec)
    try:
        with urllib.request.urlopen(url, timeout=READ_TIMEOUT) as answer:
            content = answer.read(mails.LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = sanitize.line(str(getattr(error, "reason", "") or error))
        raise BuildError(f"{url} could not be downloaded: {reason}", _HINT) from None
    name = url.rstrip("/").removesuffix("/mbox").rpartition("/")[2] or url
    if content[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise BuildError(
            f"{url} is a web page, not mails",
            "give the message id of the cover letter, or save the mbox in a browser and give that",
        )
    return mails.read(Path(name), content)


def _of_patchwork(spec: str) -> str:
    """Return the address of a series' mbox, where a spec is that of its page in patchwork."""
    address = urllib.parse.urlsplit(spec)
    series = urllib.parse.parse_qs(address.query).get("series", [""])[0]
    if re.fullmatch(r"/project/[^/]+/list/?", address.path) and series.isdigit():
        return urllib.parse.urlunsplit((*address[:2], f"/series/{series}/mbox/", "", ""))
    if re.fullmatch(r"/(?:project/[^/]+/)?(?:series|patch)/\d+/?", address.path):
        path = address.path.rstrip("/") + "/mbox/"
        return urllib.parse.urlunsplit((*address[:2], path, "", ""))
    return spec
