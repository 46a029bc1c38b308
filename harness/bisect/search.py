# SPDX-License-Identifier: GPL-2.0-only
"""The search itself: revisions as numbers, what is known of some, which one to ask for next.

Number 0 is what is known to be good (the base, or the commit --good), the last one what is
known to be bad.  Those between are in topological order, each behind its parents: of a series
every number's parent is the one before, of a range of git with merges there are several.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

AWAY = 4
"""Of the suspects, 1/AWAY is the most that a candidate is moved away from what was skipped."""


class History:
    """Revisions and their parents, with the ancestors of each as a set of bits."""

    def __init__(self, parents: Sequence[Sequence[int]]) -> None:
        """Take the parents of each revision; ValueError where one does not come before."""
        self.parents = tuple(map(tuple, parents))
        if len(self.parents) < 2:
            raise ValueError("nothing lies between good and bad")
        self.ancestors: list[int] = []
        """Of each revision the set of those it contains, itself too."""
        for number, before in enumerate(self.parents):
            if bool(before) != bool(number) or any(not 0 <= each < number for each in before):
                raise ValueError(f"revision {number} cannot have the parents {before}")
            found = 1 << number
            for parent in before:
                found |= self.ancestors[parent]
            self.ancestors.append(found)

    @classmethod
    def line(cls, count: int) -> History:
        """Return that of a series: the base and `count` patches."""
        return cls([(), *((number - 1,) for number in range(1, count + 1))])

    @property
    def last(self) -> int:
        """The number of the bad end."""
        return len(self.parents) - 1


@dataclass(frozen=True, slots=True)
class Suspects:
    """Who can be the first bad one."""

    bad: int
    """The one that is known to be bad and contains all the others."""
    numbers: tuple[int, ...]
    """All of them in order, the bad one too."""
    mask: int

    def edge(self, history: History) -> tuple[int, ...]:
        """Return their parents that are no suspects: those whose being good decides."""
        found = {parent for each in self.numbers for parent in history.parents[each]}
        return tuple(sorted(found - set(self.numbers)))


def suspects(history: History, good: Set[int], bad: Set[int]) -> Suspects | None:
    """Return who can be the first bad one; None where all that is bad is also in a good one.

    Number 0 is good and the last one bad, whatever the sets say.  Of several bad ones that
    with the fewest suspects counts.
    """
    cleared = history.ancestors[0]
    for each in good:
        cleared |= history.ancestors[each]
    best: Suspects | None = None
    for each in sorted(bad | {history.last}):
        if cleared >> each & 1:
            continue
        mask = history.ancestors[each] & ~cleared
        if best is None or mask.bit_count() < best.mask.bit_count():
            best = Suspects(each, tuple(bits(mask)), mask)
    return best


def choose(history: History, found: Suspects, skipped: Set[int]) -> int | None:
    """Return the candidate that halves the suspects best; None where only skipped ones are left.

    Neighbours of what did not build seldom build: with each that was skipped the next candidate
    keeps twice the distance from all of them, as far as there are any left.
    """
    numbers = [each for each in found.numbers if each != found.bad and each not in skipped]
    if not numbers:
        return None
    total = len(found.numbers)
    places = {number: place for place, number in enumerate(found.numbers)}
    avoided = sorted(places[each] for each in skipped if each in places)
    distance = min(1 << len(avoided), max(1, total // AWAY)) if avoided else 0
    allowed = numbers
    while distance > 1:
        allowed = [
            each
            for each in numbers
            if all(abs(places[each] - place) >= distance for place in avoided)
        ]
        if allowed:
            break
        distance //= 2
        allowed = numbers

    def halves(number: int) -> int:
        inside = (history.ancestors[number] & found.mask).bit_count()
        return min(inside, total - inside)

    return max(allowed, key=lambda each: (halves(each), -each))


def steps_left(found: Suspects) -> int:
    """Return how many more verdicts it takes at most where nothing is skipped, ends left out."""
    return (len(found.numbers) - 1).bit_length()


def bits(mask: int) -> Iterator[int]:
    """Return the numbers in a set of bits, in order."""
    text = bin(mask)[:1:-1]
    position = text.find("1")
    while position >= 0:
        yield position
        position = text.find("1", position + 1)


def order(parents: Mapping[str, Iterable[str]], outside: str) -> tuple[list[str], list[list[int]]]:
    """Number commits that are in topological order; parents that are not among them are 0.

    Returns the names with `outside` first, and the parents for History.
    """
    numbers = {outside: 0}
    for name in parents:
        numbers[name] = len(numbers)
    found = [sorted({numbers.get(each, 0) for each in before}) for before in parents.values()]
    return list(numbers), [[], *(each or [0] for each in found)]
