# SPDX-License-Identifier: GPL-2.0-only
"""Which series mails hold: each posting of it, its version, and what of it is there.

A posting is what was sent at once: the patches n/m of one version.  Mails belong together by
version, total and thread; what is there twice counts once where it changes the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from harness.kbuild import diffs
from harness.kbuild.mails import Mail, is_several
from harness.kbuild.subject import Subject, Version, parse


@dataclass(frozen=True)
class Letter:
    """A mail, what its subject says, and which one it is of the input."""

    position: int
    mail: Mail
    subject: Subject

    @cached_property
    def changes(self) -> str:
        """A hash of what it changes."""
        return diffs.fingerprint(self.mail.text)

    @property
    def links(self) -> tuple[str, ...]:
        """Its own id and those of what it answers."""
        own = (self.mail.identifier,) if self.mail.identifier else ()
        return (*own, *self.mail.ancestors)


@dataclass
class Posting:
    """One version of a series as it was sent once."""

    version: Version
    total: int | None
    """m of n/m, None where patches have no numbers."""
    resend: bool
    patches: dict[int, Letter] = field(default_factory=dict)
    """By n; by position where they have no numbers."""
    twins: list[tuple[Letter, Letter]] = field(default_factory=list)
    """Two mails with the same n that change different things."""
    copies: list[Letter] = field(default_factory=list)
    """Mails that change what one of `patches` does."""
    covers: list[Letter] = field(default_factory=list)
    strays: list[Letter] = field(default_factory=list)
    """Patches that came in another thread than the rest."""
    resent: list[Letter] = field(default_factory=list)
    """Patches that are there only as a RESEND."""
    more: list[Letter] = field(default_factory=list)
    """Patches that were sent on top of the rest, which counted less: 3/4 and 4/4 behind 2/2."""

    @property
    def label(self) -> str:
        """The version as people write it."""
        members = self.covers or list(self.patches.values())
        rfc = all(each.subject.rfc for each in members)
        return Subject("", rfc=rfc, resend=self.resend, version=self.version).label

    @property
    def rank(self) -> tuple[Version, bool, bool]:
        """What sorts postings of one series from the oldest to the newest."""
        return self.version, not self.label.startswith("RFC"), self.resend

    @property
    def missing(self) -> list[int]:
        """The numbers that are not there."""
        return [n for n in range(1, (self.total or 0) + 1) if n not in self.patches]

    @property
    def letters(self) -> Iterator[Letter]:
        """All of its mails."""
        yield from self.covers
        yield from self.patches.values()
        yield from self.copies
        for pair in self.twins:
            yield from pair

    @property
    def identifiers(self) -> set[str]:
        """The ids of its mails."""
        return {each.mail.identifier for each in self.letters if each.mail.identifier}

    @property
    def own(self) -> set[str]:
        """The ids of its patches, and of the cover letter that counts them as they do."""
        covers = [each for each in self.covers if each.subject.total == self.total]
        patches = [*self.patches.values(), *self.copies]
        return {each.mail.identifier for each in (*covers, *patches) if each.mail.identifier}

    @property
    def subjects(self) -> set[str]:
        """What its patches and cover are called."""
        return {text for each in self.letters if (text := each.subject.text.casefold())}

    @property
    def title(self) -> str:
        """What the series is called: by its cover, or its first patch."""
        first = self._first
        return first.subject.text or first.mail.name

    @property
    def identifier(self) -> str:
        """An id that names it, "" where its mails have none."""
        return self._first.mail.identifier

    @property
    def _first(self) -> Letter:
        counted = self.total is not None and self.covers
        return self.covers[0] if counted else self.patches[min(self.patches)]

    @property
    def position(self) -> int:
        """Where in the input its first patch is."""
        return min(each.position for each in self.patches.values())

    @property
    def senders(self) -> set[str]:
        """Who sent it."""
        return {each.mail.author for each in self.letters}


@dataclass(frozen=True)
class Thread:
    """Everything that an input holds."""

    letters: tuple[Letter, ...]
    postings: tuple[Posting, ...]
    """In the order in which their first patches came."""
    groups: Groups

    def linked(self, one: Posting, other: Posting) -> bool:
        """Whether two postings are in one thread of mails."""
        return bool(self._threads(one) & self._threads(other))

    def related(self, one: Posting, other: Posting) -> bool:
        """Whether two postings are of one series: as their subjects, or thread and sender say."""
        if one.subjects & other.subjects:
            return True
        return self.linked(one, other) and bool(one.senders & other.senders)

    def _threads(self, posting: Posting) -> set[str]:
        return {self.groups.of(link) for each in posting.letters for link in each.links}


class Groups:
    """Sets of names that are joined step by step."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return the name that stands for the set in which a name is."""
        while (above := self._above.get(name, name)) != name:
            self._above[name] = self._above.get(above, above)
            name = above
        return name

    def join(self, names: Sequence[str]) -> None:
        """Put names into one set."""
        for each in names[1:]:
            self._above[self.of(each)] = self.of(names[0])


def read(mails: Iterable[Mail]) -> Thread:
    """Find the postings in mails; answers, also those with a diff, and cover letters are none."""
    letters = [Letter(n, mail, parse(mail.subject)) for n, mail in enumerate(mails)]
    if len({each.mail.identifier or each.position for each in letters}) == 1:
        # One mail is meant, whatever its subject says, and so is what is attached to it.
        letters = [_with_reply(each, reply=False) for each in letters]
    else:
        letters = [_with_reply(e, reply=e.subject.reply or e.mail.answer) for e in letters]
    letters = _dated(letters)
    everything = Groups()
    for each in letters:
        everything.join(each.links)
    patches = [each for each in letters if _is_patch(each)]
    found = _extended(_with_resends(_merged(_clusters(patches, letters))))
    for posting in found:
        posting.covers += _covers(posting, letters)
    found = [posting for posting in found if posting.patches]
    found.sort(key=lambda posting: posting.position)
    return Thread(tuple(letters), tuple(found), everything)


def _with_reply(letter: Letter, *, reply: bool) -> Letter:
    return dataclasses.replace(letter, subject=dataclasses.replace(letter.subject, reply=reply))


def _dated(letters: list[Letter]) -> list[Letter]:
    """Give patches whose subjects lack the version that of the cover letter that they answer."""
    covers = {
        each.mail.identifier: each.subject
        for each in letters
        if each.subject.dated and each.subject.number == 0 and not each.subject.reply
    }
    found = []
    for each in letters:
        subject = each.subject
        cover = covers.get(each.mail.ancestors[0]) if each.mail.ancestors else None
        if cover and subject.number and not subject.dated and cover.total == subject.total:
            subject = dataclasses.replace(subject, version=cover.version)
        found.append(dataclasses.replace(each, subject=subject))
    return found


def _is_patch(letter: Letter) -> bool:
    subject = letter.subject
    return not subject.reply and subject.number != 0 and diffs.has_diff(letter.mail.text)


def _key(letter: Letter) -> tuple[Version, int | None, bool]:
    return letter.subject.version, letter.subject.total, letter.subject.resend


def _clusters(patches: list[Letter], letters: list[Letter]) -> list[Posting]:
    """Put patches of one version, total and thread into one posting."""
    groups = Groups()
    answered = {link for each in letters for link in each.mail.ancestors}
    keys = {each.mail.identifier: _key(each) for each in letters if each.mail.identifier}
    for each in letters:
        if each.subject.reply:
            continue
        groups.join([f"{_key(each)} {link}" for link in _own_links(each, keys)])
    found: dict[tuple[object, ...], Posting] = {}
    for each in patches:
        key = _key(each)
        links = _own_links(each, keys)
        threaded = each.mail.ancestors or each.mail.identifier in answered
        links = links if threaded else []  # of those without a thread nothing tells them apart
        place: tuple[object, ...] = (*key, groups.of(f"{key} {links[0]}") if links else "")
        if each.subject.number is None and links:
            place = (*place, each.mail.author)  # nothing else says whose patch it goes with
        posting = found.setdefault(place, Posting(*key))
        _add(posting, each)
    return list(found.values())


def _own_links(letter: Letter, keys: Mapping[str, object]) -> list[str]:
    """Return the ids that tie a mail to others of its posting.

    Those are what it answers, and above that what is of the same version and total, or not there.
    """
    key = _key(letter)
    nearest = letter.mail.ancestors[:1]
    return [each for each in letter.links if each in nearest or keys.get(each, key) == key]


def _add(posting: Posting, letter: Letter) -> None:
    """Put a patch in its place, unless it is there already."""
    number = letter.subject.number
    if number is None:
        for each in posting.patches.values():
            same = each.subject.text == letter.subject.text and each.changes == letter.changes
            if same and letter.mail.is_mail:
                posting.copies.append(letter)
                return
            if _replaces(letter.mail, each.mail):
                posting.twins.append((each, letter))
                return
        number = letter.position + 1
    there = posting.patches.setdefault(number, letter)
    if there is letter:
        return
    same = bool(letter.mail.identifier) and there.mail.identifier == letter.mail.identifier
    if there.changes == letter.changes or (same and is_several(letter.mail)):
        posting.copies.append(letter)
    elif same and is_several(there.mail):  # some gateway's copy, damaged on its way
        posting.patches[number] = letter
        posting.copies.append(there)
    else:
        posting.twins.append((there, letter))


def _replaces(mail: Mail, other: Mail) -> bool:
    """Whether a mail without a number is another form of one: the same id, or sent in answer."""
    if not other.identifier:
        return False
    return other.identifier == mail.identifier or (
        other.subject == mail.subject and other.identifier in mail.ancestors
    )


def _merged(clusters: list[Posting]) -> list[Posting]:
    """Join postings that differ in their threads alone: copies of a list, or a patch sent again."""
    found: list[Posting] = []
    for cluster in clusters:
        for posting in found:
            key = (posting.version, posting.total, posting.resend)
            if key == (cluster.version, cluster.total, cluster.resend) and _joins(posting, cluster):
                shared = posting.patches.keys() & cluster.patches.keys()
                if not shared and posting.total is not None:
                    small = min((posting, cluster), key=lambda each: len(each.patches))
                    posting.strays += small.patches.values()
                for each in (*cluster.patches.values(), *cluster.copies):
                    _add(posting, each)
                posting.twins += cluster.twins
                break
        else:
            found.append(cluster)
    return found


def _joins(one: Posting, other: Posting) -> bool:
    if one.total is None:
        known = {each.mail.identifier: each.changes for each in one.patches.values()}
        return all(
            each.mail.identifier and known.get(each.mail.identifier) == each.changes
            for each in other.patches.values()
        )
    shared = one.patches.keys() & other.patches.keys()
    if any(one.patches[n].changes != other.patches[n].changes for n in shared):
        return False
    return bool(shared) or bool(one.missing and other.missing and one.senders & other.senders)


def _with_resends(postings: list[Posting]) -> list[Posting]:
    """Join a RESEND with what it repeats, where that is the same."""
    found = [posting for posting in postings if not posting.resend]
    for again in (posting for posting in postings if posting.resend):
        for first in found:
            if (first.version, first.total) != (again.version, again.total) or first.resend:
                continue
            mine = _by_subject(first)
            theirs = _by_subject(again)
            shared = mine.keys() & theirs.keys()
            same = all(mine[each].changes == theirs[each].changes for each in shared)
            if not same or not (shared or first.senders & again.senders):
                continue
            if first.total is None and not theirs.keys() <= mine.keys():
                continue
            for each in again.patches.values():
                if first.total is None or each.subject.number in first.patches:
                    first.copies.append(each)
                else:
                    first.patches[each.subject.number or 0] = each
                    first.resent.append(each)
            first.copies += again.copies
            first.twins += again.twins
            break
        else:
            found.append(again)
    return found


def _extended(postings: list[Posting]) -> list[Posting]:
    """Join patches that were sent later, counted on from a whole series of the same version."""
    found = list(postings)
    for more in postings:
        for first in postings:
            same = (more.version, more.resend) == (first.version, first.resend)
            if not same or not first.total or first.missing or not more.total:
                continue
            counts_on = more.missing == list(range(1, first.total + 1))
            if counts_on and first.senders & more.senders and _answers(more, first):
                first.more += more.patches.values()
                first.patches |= more.patches
                first.total = more.total
                first.twins += more.twins
                first.copies += more.copies
                found.remove(more)
                break
    return found


def _answers(posting: Posting, other: Posting) -> bool:
    """Whether all patches of a posting answer another's patches or what these answer."""
    ids = {link for each in other.patches.values() for link in each.links}
    return all(ids & set(each.mail.ancestors) for each in posting.patches.values())


def _by_subject(posting: Posting) -> dict[object, Letter]:
    """Return patches by what tells them from each other: n, or the subject without one."""
    numbered = posting.total is not None
    return {n if numbered else each.subject.text: each for n, each in posting.patches.items()}


def _covers(posting: Posting, letters: list[Letter]) -> list[Letter]:
    """Return the cover letters of a posting: what its patches answer, or what counts as they do."""
    above = {link for each in posting.patches.values() for link in each.mail.ancestors}
    found = [
        each
        for each in letters
        if not each.subject.reply
        and each.subject.number == 0
        and each.subject.version == posting.version
    ]
    if above:
        answered = [each for each in found if each.mail.identifier in above]
        exact = [each for each in answered if each.subject.total == posting.total]
        return exact or answered
    return [each for each in found if each.subject.total == posting.total]
