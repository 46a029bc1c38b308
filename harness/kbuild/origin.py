# SPDX-License-Identifier: GPL-2.0-only
"""What a series says that it was made on: `--base auto`, and the hint where it does not apply."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.kbuild import base as bases
from harness.kbuild.base import Base
from harness.kbuild.gitbase import is_repository, is_url
from harness.kbuild.gitrun import OFFLINE, GitError, run_git
from harness.kbuild.series import Series, load_all
from harness.report.words import counted

AUTO = "auto"
_SHOWN = 12


def resolve(base: str, revision: str | None, specs: Sequence[str | Path]) -> tuple[Base, Series]:
    """Return what --base and --series mean.

    PATH@auto, URL@auto, or --rev auto is the base that the series names, in that repository;
    auto alone is one of the repository that a range is of, or of the current directory.
    """
    place = _place(base, revision)
    if place is None:
        found = bases.resolve(base, revision)
        return found, load_all(specs, bases.repository_of(found))
    here = place or "."
    repository = None if is_url(here) else Path(here).expanduser()
    if repository is not None and not is_repository(repository):
        repository = None
        if place:
            raise UsageError(f"--base {place}@{AUTO}: {place} is no git repository")
    series = load_all(specs, repository)
    commit = series.base_commit or series.start
    if not commit:
        raise UsageError(
            f"--base {AUTO}: the series names no base" if specs else f"--base {AUTO}: of what?",
            "a line base-commit: is what git format-patch --base writes; name a base otherwise",
        )
    if series.start and not place:
        return bases.resolve(str(series.repository), commit), series
    if repository is None and not place:
        raise UsageError(
            f"--base {AUTO}: the series names {commit[:_SHOWN]}; of which repository?",
            f"--base PATH@{AUTO}, or run it in the repository",
        )
    if repository is not None and not has_commit(repository, commit):
        raise UsageError(
            f"--base {AUTO}: the series names {commit[:_SHOWN]}, which {here} does not have",
            f"git -C {here} fetch, or name a base",
        )
    return bases.resolve(here, commit), series


def _place(base: str, revision: str | None) -> str | None:
    """Return the repository of an automatic base, "" where none is named; None of any other."""
    if base == AUTO and revision is None and not Path(base).exists():
        return ""
    if revision == AUTO:
        return base
    if revision is None and base.endswith(f"@{AUTO}") and not Path(base).expanduser().exists():
        return base.removesuffix(f"@{AUTO}")
    return None


def has_commit(repository: Path, commit: str) -> bool:
    """Whether a repository has a commit; nothing is fetched to find out."""
    try:
        run_git(["cat-file", "-e", f"{commit}^{{commit}}"], repository, OFFLINE)
    except GitError:
        return False
    return True


def hint(base: Base, commit: str, series: Series) -> str:
    """Say what to do about a series that does not apply to a base, whose commit that is."""
    named = series.base_commit
    shown = named[:_SHOWN]
    needs = ""
    if count := len(series.prerequisites):
        patches = counted(count, "patch", "patches")
        needs = f"; it needs {patches} before it, which are not given"
    if not named:
        return f"is the series made for this base?{needs}"
    if commit.startswith(named):
        return f"the series names this very base, {shown}{needs}"
    repository = bases.repository_of(base) or series.repository
    if repository is None:
        return f"the series names base {shown}: --base PATH@{shown}, a repository with it{needs}"
    if has_commit(repository, named):
        return f"the series names base {shown}: --base {repository}@{shown} has it{needs}"
    return f"the series names base {shown}, which {repository} does not have{needs}"
