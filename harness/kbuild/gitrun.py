# SPDX-License-Identifier: GPL-2.0-only
"""Running git: with a deadline, an environment we know, and errors of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import UserError

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
    "LC_ALL": "C",
}
"""Environment for our own repository: the same input gives the same commits, whoever we are."""

OFFLINE = {"LC_ALL": "C", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
"""For looking into the user's repositories: what a partial clone lacks is not fetched."""

_POINTERS = frozenset(
    f"GIT_{name}"
    for name in (
        *("DIR", "WORK_TREE", "INDEX_FILE", "OBJECT_DIRECTORY", "COMMON_DIR", "PREFIX"),
        *("ALTERNATE_OBJECT_DIRECTORIES", "NAMESPACE", "CEILING_DIRECTORIES"),
    )
)


class GitError(Exception):
    """A git command failed; the message is what it printed."""


def run_git(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    stdin: bytes = b"",
    timeout: float = GIT_TIMEOUT,
) -> bytes:
    """Run git and return what it printed; GitError when it fails or takes too long.

    The environment is on top of the caller's without what git would take a repository from.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _POINTERS}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**inherited, **environment},
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
        raise GitError((done.stderr or done.stdout).decode(errors="replace").strip())
    return done.stdout
