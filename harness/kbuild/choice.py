# SPDX-License-Identifier: GPL-2.0-only
"""Which posting of a series is taken out of what an input holds, and whether it is whole.

Nothing is decided without a word: whatever else is there is named in a note.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.errors import UsageError
from harness.kbuild import diffs
from harness.kbuild.subject import Version
from harness.kbuild.thread import Letter, Posting, Thread
from harness.report import sanitize
from harness.report.words import counted

_BASE = re.compile(rb"^base-commit: +([0-9a-f]{7,64})\b", re.MULTILINE)
_NEEDS = re.compile(rb"^prerequisite-patch-id: +([0-9a-f]{40,64})\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of an input was named: nothing, a version, or the version of a message."""

    version: Version | None = None
    identifier: str = ""
    newest: bool = False
    """Of the series in which the message is, whatever its own version."""
    alone: bool = False
    """One patch, which may be one of many: a file that was named."""


@dataclass(slots=True)
class Chosen:
    """The patches that are taken, in order, and what is to be said of that."""

    letters: list[Letter] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    label: str = ""
    """The version; of several series one after the other: each."""
    base_commit: str = ""
    prerequisites: tuple[str, ...] = ()


def choose(where: str, thread: Thread, wanted: Wanted) -> Chosen:
    """Choose what was named, or the newest version; UsageError where that is not whole.

    `where` is the input's name.  Several series that have nothing to do with each other are
    taken one after the other, as they come.
    """
    postings = list(thread.postings)
    if wanted.identifier:
        named = _posting_of(where, thread, wanted.identifier)
        family = [each for each in postings if each is named or thread.related(each, named)]
        taken = [_newest(where, thread, family) if wanted.newest else named]
        if taken == [named] and named.total is None and len(named.patches) > 1:
            return _alone(where, thread, named, wanted.identifier)
    else:
        if wanted.version is not None:
            postings = [each for each in postings if each.version == wanted.version]
            if not postings:
                there = _labels(thread.postings)
                asked = f"v{wanted.version[0]}"
                raise UsageError(f"{where} holds no {asked}", f"it holds {there}")
        families = _families(thread, postings)
        taken = [_newest(where, thread, each) for each in _leading(thread, families)]
    chosen = Chosen()
    for posting in taken:
        _take(where, thread, posting, chosen, alone=wanted.alone)
    mails = [each for each in taken if any(letter.mail.subject for letter in each.letters)]
    chosen.label = ", ".join(dict.fromkeys(posting.label for posting in mails))
    chosen.notes += _others(where, thread, taken, wanted)
    return chosen


def _alone(where: str, thread: Thread, posting: Posting, identifier: str) -> Chosen:
    """Take the message that was named out of patches without numbers, and name the others."""
    letters = posting.patches.values()
    mine = [each for each in letters if each.mail.identifier == identifier]
    if not mine:
        return choose(where, thread, Wanted())
    alone = dataclasses.replace(posting, patches={1: mine[0]})
    chosen = Chosen(label=posting.label)
    _take(where, thread, alone, chosen)
    others = [f"{each.subject.text} ({_named(each)})" for each in letters if each is not mine[0]]
    chosen.notes.append(f"{where}: not taken: {_some(others)}")
    return chosen


def _labels(postings: Iterable[Posting]) -> str:
    labels = list(dict.fromkeys(each.label for each in postings))
    return " and ".join(labels) if labels else "no patch"


def _posting_of(where: str, thread: Thread, identifier: str) -> Posting:
    """Return the posting to which a message belongs, or which it answers."""
    found = [posting for posting in thread.postings if identifier in posting.identifiers]
    # A cover letter may be answered by patches of another series, too.
    mine = [each for each in found if identifier in each.own]
    found = mine or found
    if len(found) > 1:
        raise UsageError(
            f"{where}: {identifier} is the id of several mails: of {_labels(found)}",
            "save the thread's mbox: FILE@v2 names a version",
        )
    if found:
        return found[0]
    letters = {each.mail.identifier: each for each in thread.letters}
    letter = letters.get(identifier)
    if letter is None:
        raise UsageError(f"{where} holds no message {identifier}", "is the id right?")
    for above in letter.mail.ancestors:
        for posting in thread.postings:
            if above in posting.identifiers:
                if diffs.has_diff(letter.mail.text):
                    raise UsageError(
                        f"{identifier} is an answer with a diff of its own: "
                        f"{sanitize.line(letter.mail.subject)}",
                        f"the series is {posting.identifier}; the diff alone: save it as a file",
                    )
                return posting
    raise UsageError(
        f"{identifier} belongs to no series: {sanitize.line(letter.mail.subject)}",
        "name the cover letter or a patch",
    )


def _families(thread: Thread, postings: list[Posting]) -> list[list[Posting]]:
    """Put versions of one series together."""
    found: list[list[Posting]] = []
    for posting in postings:
        near = [each for each in found if any(thread.related(posting, other) for other in each)]
        found = [each for each in found if each not in near]
        found.append([*(other for each in near for other in each), posting])
    found.sort(key=lambda family: min(each.position for each in family))
    return found


def _leading(thread: Thread, families: list[list[Posting]]) -> list[list[Posting]]:
    """Leave out what somebody sent into the thread of another series."""
    found: list[list[Posting]] = []
    for family in sorted(families, key=_depth):
        if not any(thread.linked(a, b) for each in found for a in each for b in family):
            found.append(family)
    return [each for each in families if each in found]


def _depth(family: list[Posting]) -> tuple[int, int]:
    """Return how deep in its thread a series begins, and where in the input."""
    depth = min(len(each.mail.ancestors) for posting in family for each in posting.letters)
    return depth, min(each.position for each in family)


def _newest(where: str, thread: Thread, family: list[Posting]) -> Posting:
    """Return the newest version of a series; UsageError where two may be that."""
    best = max(each.rank for each in family)
    found = [each for each in family if each.rank == best]
    if len(found) > 1:
        # A part that somebody sent into its thread again is not the series.
        whole = [each for each in found if not each.missing]
        found = whole if len(whole) == 1 else found
    if len(found) > 1:
        names = [f"{each.identifier or each.title} ({_size(each)})" for each in found]
        raise UsageError(
            f"{where} holds {found[0].label} {counted(len(found), 'time')}, with differences: "
            f"{', '.join(names)}",
            f"{where}@MESSAGE-ID says which",
        )
    return found[0]


def _size(posting: Posting) -> str:
    return counted(len(posting.patches), "patch", "patches")


def _take(
    where: str, thread: Thread, posting: Posting, chosen: Chosen, *, alone: bool = False
) -> None:
    """Add a posting's patches, in order, and what is to be said of them."""
    patches = posting.patches if alone else _whole(where, thread, posting, chosen.notes)
    letters = [patches[number] for number in sorted(patches)]
    chosen.letters += letters
    total = posting.total
    for number in sorted(patches):
        if total is not None and number > total:
            chosen.notes.append(f"{where}: {number}/{total} is taken as one more patch of it")
    if posting.more:
        first = len(patches) - len(posting.more)
        numbers = ", ".join(f"{each.subject.number}/{total}" for each in posting.more)
        chosen.notes.append(f"{where}: {numbers} came behind the first {first}, and are taken")
    for each in posting.strays:
        place = f"{each.subject.number}/{total}"
        subject = each.subject.text
        chosen.notes.append(f"{where}: {place} is of another thread than the rest: {subject}")
    if posting.resent:
        numbers = ", ".join(f"{each.subject.number}/{total}" for each in posting.resent)
        chosen.notes.append(f"{where}: {numbers} is there as a RESEND alone, which is taken")
    texts = [each.mail.text for each in (*posting.covers, *letters)]
    for text in texts:
        if not chosen.base_commit and (match := _BASE.search(text)):
            chosen.base_commit = match[1].decode()
    ids = [each.decode() for text in texts for each in _NEEDS.findall(text)]
    chosen.prerequisites = (*chosen.prerequisites, *dict.fromkeys(ids))


def _whole(where: str, thread: Thread, posting: Posting, notes: list[str]) -> dict[int, Letter]:
    """Return all patches of a posting; UsageError where one is missing, or there in two forms."""
    if posting.twins:
        one, other = posting.twins[0]
        number = f"{one.subject.number}/{posting.total}" if posting.total else "a patch"
        raise UsageError(
            f"{where}: {number} of {posting.label} is there twice, and differs: "
            f"{_named(one)}, {_named(other)}",
            "keep the one that is meant, or give the message id of the series",
        )
    missing = posting.missing
    if not missing:
        return dict(posting.patches)
    before = _rerolled(thread, posting)
    if before is None:
        names = _ranges(missing, posting.total)
        verb = "is" if len(missing) == 1 else "are"
        raise UsageError(
            f"{where}: {names} of {posting.label} {verb} missing: {posting.title}",
            "get the whole series; or list the patches that you mean in a quilt `series` file",
        )
    patches = _whole(where, thread, before, notes)
    numbers = ", ".join(f"{number}/{posting.total}" for number in sorted(posting.patches))
    notes.append(
        f"{where}: {posting.label} is a reroll of {numbers} alone; "
        f"the rest is taken of {before.label}"
    )
    return {**patches, **posting.patches}


def _ranges(numbers: list[int], total: int | None) -> str:
    """Write numbers of patches down, several in a row as "2/9 to 5/9"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    texts = []
    for part in parts:
        if len(part) < 3:
            texts += [f"{number}/{total}" for number in part]
        else:
            texts.append(f"{part[0]}/{total} to {part[-1]}/{total}")
    return ", ".join(texts)


def _rerolled(thread: Thread, posting: Posting) -> Posting | None:
    """Return the version of which a posting replaces patches, each in an answer to the old one."""
    older = [
        each
        for each in thread.postings
        if each is not posting and each.total == posting.total and each.rank < posting.rank
    ]
    for before in sorted(older, key=lambda each: each.rank, reverse=True):
        if all(
            any(old in letter.mail.ancestors for old in _ids_of(thread, before, number))
            for number, letter in posting.patches.items()
        ):
            return before
    return None


def _ids_of(thread: Thread, posting: Posting, number: int) -> list[str]:
    """Return the ids of patch n of a posting, and of those that it rerolls."""
    found = []
    current: Posting | None = posting
    while current is not None:
        if number in current.patches:
            found.append(current.patches[number].mail.identifier)
        current = _rerolled(thread, current) if current.missing else None
    return [each for each in found if each]


def _named(letter: Letter) -> str:
    return letter.mail.identifier or letter.mail.name


def _others(where: str, thread: Thread, taken: Sequence[Posting], wanted: Wanted) -> list[str]:
    """Say what else is there: other versions, other series of the thread."""
    notes = []
    if len(taken) > 1:
        titles = ", then ".join(f"{each.title} ({_size(each)})" for each in taken)
        notes.append(f"{where} holds {len(taken)} series: {titles}")
    for posting in taken:
        others = [
            each
            for each in thread.postings
            if each is not posting and thread.related(each, posting) and each not in taken
        ]
        if others:
            # The id of another version names it; of a file, its version does.
            names = [f"{each.label} ({each.identifier or _size(each)})" for each in others]
            names = list(dict.fromkeys(names))
            named = wanted.version or (wanted.identifier and not wanted.newest)
            why = "as named" if named else "the newest"
            notes.append(
                f"{where}: {posting.label} is taken, {why}; there is also {', '.join(names)}"
            )
    beside = [
        each
        for each in thread.postings
        if each not in taken
        and not any(thread.related(each, posting) for posting in taken)
        and (not wanted.identifier or any(thread.linked(each, posting) for posting in taken))
    ]
    if beside:
        names = [f"{each.title} ({_size(each)})" for each in beside]
        notes.append(f"{where}: not taken: {_some(names)}")
    return notes


def _some(names: list[str]) -> str:
    """Name a few of many."""
    rest = f" and {len(names) - 3} more" * (len(names) > 4)
    return ", ".join(names[:3] if rest else names) + rest
