# SPDX-License-Identifier: GPL-2.0-only
"""Running git: with a deadline, an environment we know, and errors of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.report import sanitize

GIT_TIMEOUT = 600.0
IDENTITY = {
    "GIT_AUTHOR_NAME": "snptest",
    "GIT_AUTHOR_EMAIL": "snptest@localhost",
    "GIT_AUTHOR_DATE": "1700000000 +0000",
    "GIT_COMMITTER_NAME": "snptest",
    "GIT_COMMITTER_EMAIL": "snptest@localhost",
    "GIT_COMMITTER_DATE": "1700000000 +0000",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    # Also what comes without a file of configuration: `git -c`, a CI's GIT_CONFIG_KEY_0, and
    # the user's ~/.config/git/attributes, which would turn line ends in what is built.
    "GIT_CONFIG_PARAMETERS": "",
    "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "core.attributesFile",
    "GIT_CONFIG_VALUE_0": os.devnull,
    "GIT_CONFIG_KEY_1": "core.excludesFile",
    "GIT_CONFIG_VALUE_1": os.devnull,
    "GIT_CONFIG_KEY_2": "core.hooksPath",
    "GIT_CONFIG_VALUE_2": os.devnull,
    "LC_ALL": "C",
}
"""Environment for our own repository: the same input gives the same commits, whoever we are."""

OFFLINE = {"LC_ALL": "C", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
"""For looking into the user's repositories: what a partial clone lacks is not fetched."""

_KEPT = re.compile(
    r"GIT_(?:SSH|SSL_|HTTP_|PROXY_|CONFIG|PROTOCOL|ALLOW_PROTOCOL$|ASKPASS$|TERMINAL_PROMPT$"
    r"|EXEC_PATH$|ATTR_NOSYSTEM$|DISCOVERY_ACROSS_FILESYSTEM$|NO_LAZY_FETCH$)"
)
"""What of the caller's GIT_* holds for us too: how repositories are reached, and the
configuration.  Others name another repository (a hook's GIT_DIR), change what is printed
(GIT_EXTERNAL_DIFF, GIT_DIFF_OPTS, GIT_TRACE) or made (GIT_DEFAULT_HASH, GIT_TEMPLATE_DIR)."""


def inherited() -> dict[str, str]:
    """Return the caller's environment without what makes git do something else than is asked."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or _KEPT.match(name)
    }


_DUBIOUS = re.compile(r"dubious ownership in repository at '([^']+)'")
# What git says after something has gone wrong, wherever it was.
_AFTERMATH = re.compile(
    r"^(?:warning: |hint: |fatal: (?:Could not read from remote|the remote end hung up|early EOF"
    r"|protocol error|.*unable to|.*index-pack|.*possible repository corruption))"
)


class GitError(Exception):
    """A git command failed; the message is what it printed."""

    @property
    def reason(self) -> str:
        """The line that says why: of what it printed the first error that follows from no other."""
        lines = [line.removeprefix("remote: ").strip() for line in str(self).splitlines()]
        lines = [line for line in lines if line]
        errors = [line for line in lines if re.match(r"(?:fatal|error): ", line)]
        causes = [[line for line in each if not _AFTERMATH.match(line)] for each in (errors, lines)]
        told = causes[0] or causes[1] or errors or lines
        text = sanitize.line(told[0]) if told else "git gave no reason"
        return text.removeprefix("fatal: ").removeprefix("error: ")


def run_git(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    stdin: bytes = b"",
    timeout: float = GIT_TIMEOUT,
) -> bytes:
    """Run git and return what it printed; GitError when it fails or takes too long.

    The environment is on top of inherited().
    """
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**inherited(), **environment},
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed", "apt-get install git") from None
    except subprocess.TimeoutExpired:
        raise GitError(f"git {arguments[0]} did not end within {timeout:g} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        if match := _DUBIOUS.search(said):
            raise _somebody_elses(Path(match[1]), environment)
        raise GitError(said)
    return done.stdout


def _somebody_elses(path: Path, environment: Mapping[str, str]) -> UserError:
    """Say whose a repository is that git does not read, and what git wants to be told."""
    try:
        owner = path.owner()
    except (KeyError, OSError):
        owner = "somebody else"
    message = f"{path} belongs to {owner}, and git reads no repository of somebody else"
    if environment.get("GIT_CONFIG_GLOBAL") == os.devnull:  # our own, in the cache
        return UserError(message, f"run as {owner}, or let XDG_CACHE_HOME name a folder of yours")
    place = path.parent if path.name == ".git" else path
    add = f"git config --global --add safe.directory {shlex.quote(str(place))}"
    return UserError(message, f"if you trust it: {add}")
