# SPDX-License-Identifier: GPL-2.0-only
"""What can be searched: the patches of a series on a base, or the commits of a range in git.

In a range with merges every commit that the bad end has and the good end has not is a candidate,
as for `git bisect`; what was merged from before the good end counts as good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import kbuild
from harness.bisect.search import History, order
from harness.errors import UsageError
from harness.kbuild.gitbase import is_repository, is_url, resolve_revision
from harness.kbuild.gitrun import GitError, run_git
from harness.report import sanitize

_FORMAT = "%H%x1f%P%x1f%an <%ae>%x1f%s%x1f%b"


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of the sources, and the patch or commit that led to it."""

    name: str
    commit: str
    subject: str = ""
    author: str = ""
    message: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of kbuild.build(), but for the name."""

    @property
    def title(self) -> str:
        """Its name and subject in one line."""
        return f"{self.name}: {self.subject}" if self.subject else self.name


@dataclass(frozen=True, slots=True)
class Range:
    """Everything from the good end to the bad one."""

    about: str
    history: History
    revisions: tuple[Revision, ...]


def of_series(
    base: str,
    series: Sequence[str],
    good: str | None,
    bad: str | None,
    fragments: Sequence[str],
    progress: kbuild.Progress,
    say: Callable[[str], None],
) -> Range:
    """Return the patches of a series behind number `good` (0: the base) up to number `bad`.

    UsageError: such numbers there are not.  BuildError: a patch does not apply.
    """
    states = kbuild.applied(base, series, progress=progress, say=say)
    count = len(states) - 1
    first, last = _number("--good", good, 0, count), _number("--bad", bad, count, count)
    if first >= last:
        raise UsageError(
            f"no patch lies between --good {first} and --bad {last}",
            f"--good 0 is the base, --bad {count} the whole series",
        )
    shared = {"base": base, "series": list(series), "fragments": list(fragments)}
    commits = [commit for commit, _ in states]
    found = []
    for number in range(first, last + 1):
        commit, patch = states[number]
        request = {**shared, "until": number, "commits": commits}
        if patch is None:
            found.append(Revision("the base", commit, request=request))
            continue
        found.append(
            Revision(
                f"patch {number} of {count}",
                commit,
                patch.subject or patch.name,
                patch.author,
                patch.message,
                request,
            )
        )
    about = f"patches {first + 1} to {last} of {count} on {sanitize.address(base)}"
    return Range(about, History.line(last - first), tuple(found))


def of_git(base: str, good: str | None, bad: str | None, fragments: Sequence[str]) -> Range:
    """Return the commits that `bad` has and `good` has not, in the repository `base`.

    UsageError: there is no such repository or revision, or good is no ancestor of bad.
    """
    if good is None:
        raise UsageError("which revision is good?", "--good v6.12, or --series with a --base")
    path = Path(base).expanduser()
    if is_url(base) or not is_repository(path):
        raise UsageError(
            f"--base {base} is no git repository on this machine",
            "--good and --bad are revisions of one; for patches name a --series",
        )
    path = path.resolve()
    ends = [resolve_revision(path, each) for each in (good, bad or "HEAD")]
    environment = {"LC_ALL": "C"}
    try:
        run_git(["merge-base", "--is-ancestor", *ends], path, environment)
    except GitError as error:
        reason = f": {error}" if str(error) else ""
        raise UsageError(
            f"--good {good} is no ancestor of --bad {bad or 'HEAD'}{reason}",
            f"good may be their merge base: git -C {path} merge-base {good} {bad or 'HEAD'}",
        ) from None
    options = ["--topo-order", "--reverse", "-z", "--no-show-signature", f"--format={_FORMAT}"]
    ranged = ["log", *options, f"{ends[0]}..{ends[1]}", "--"]
    records = _records(run_git(ranged, path, environment))
    if not records:
        raise UsageError(f"no commit lies between {good} and {bad or 'HEAD'}")
    first = _records(run_git(["log", "-1", *options, ends[0], "--"], path, environment))[0]
    names, parents = order({each[0]: each[1].split() for each in records}, ends[0])
    found = []
    for commit, _, author, subject, message in (first, *records):
        request = {"base": str(path), "revision": commit, "fragments": list(fragments)}
        found.append(Revision(commit[:12], commit, subject, author, message.strip(), request))
    assert [each.commit for each in found] == names
    about = f"{len(records)} commits of {path}, {good}..{bad or 'HEAD'}"
    return Range(about, History(parents), tuple(found))


def _records(output: bytes) -> list[list[str]]:
    records = [each.split(b"\x1f", 4) for each in output.split(b"\0") if each]
    return [[sanitize.text(each) for each in record] for record in records]


def _number(option: str, text: str | None, default: int, count: int) -> int:
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text) > count:
        raise UsageError(
            f"{option} {text}: of a series that is a patch's number, 0 to {count}",
            "revisions of git are for a --base without --series",
        )
    return int(text)
