# SPDX-License-Identifier: GPL-2.0-only
"""Why a build failed: the first error of its log, of make as well as of ninja.

Compilers print warnings, notes and excerpts around an error, make prints that a target failed
because of it, and with several jobs all of that is mixed.  The reason is the first line that
says what is wrong itself; what only says that something is ("Error 1", "all warnings being
treated as errors") counts where there is no such line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildError, ResourceError
from harness.kbuild.remedies import Remedy, remedies
from harness.report import sanitize

STEP = re.compile(r"  [A-Z][A-Z0-9_]*(?: \[M\])? +\S|\[\d+/\d+\] ")
"""A line that says what is done next: kbuild's, ninja's."""
WIDTH = 300
"""Characters of the reason at most."""
BEFORE, BEHIND = 3, 8
"""Lines before and behind the reason that are shown at most."""
BLOCK = 60
"""Lines behind it that are looked into: a BUILD_BUG_ON() goes through five macros."""

_CAUSES = re.compile(
    "|".join(
        (
            # gcc, clang, as, lld, objtool: FILE:LINE:COLUMN: error:, PROGRAM: error:
            r"^(?:\S+: ){0,2}(?:fatal |internal compiler )?[Ee]rror: ",
            r"^\S*Kconfig\S*:\d+:(?:error: | )(?!warning)\S",
            # GNU ld, after the place.
            r"undefined reference to|multiple definition of|: cannot find |truncated to fit"
            r"|^\S*\bld(?:\.bfd|\.gold)?: (?!warning)\S.*(?:failed|error|overlap|not recognized)",
            # modpost, link-vmlinux.sh, meson; pahole
            r"^(?:\S+: )?ERROR: |^FAILED: load BTF|^LLVM ERROR: ",
            r"^\*\*\* (?!Default|Configuration|Execute|End of)\S",
            r": \*\*\* .*Stop\.$",
            # The shell, and make where it needs none.
            r"^\S+: .*(?:command not found|: not found|Permission denied)$",
            r"^(?:make(?:\[\d+\])?|env|\S*sh): (?:\d+: )?[^*].*: No such file or directory$",
            r"No space left on device|Disk quota exceeded|Read-only file system",
            r"Cannot allocate memory|[Oo]ut of memory|memory exhausted|\bKilled\b|: Killed$",
            r"^\w*(?:Error|Exception): ",  # the last line of a Python traceback
        )
    )
)
"""What says itself what is wrong."""
_NO_CAUSE = re.compile(
    r"\b(?:warning|WARNING|note): |^ *\d* \| |^\s|error: (?:ld|linker) \S* ?(?:returned|failed)"
    r"|linker command failed|treated as errors|treating warnings as errors"
    r"|^make(?:\[\d+\])?: (?:Entering|Leaving|Target|warning)"
)
"""What may look so, and does not: it stands beside what does."""
_GENERIC = re.compile(r"^make(?:\[\d+\])?: \*\*\* |^FAILED: ")
_MAKE = re.compile(r"^make(?:\[\d+\])?: \*\*\* ")
_AS_ERRORS = re.compile(r"treated as errors|treating warnings as errors")
_WARNING = re.compile(r"\b[Ww]arning: ")
_LEADING = re.compile(
    r"In file included from |\s+from |\s+inlined from |.*: [Ii]n .*function\b|In function"
)
_OTHER = re.compile(
    r"^\S+:\d+(?::\d+)?: (?:fatal )?(?:error|warning|Error|Warning): |^\S+: error: "
)
_KCONFIG = re.compile(r"^\S*Kconfig\S*:\d+:(?!\t)")
_COUNTED = re.compile(r"^\d+ (?:warning|error)s?\b.* generated\.$")
_HEADER = re.compile(r"^(?:[^\s:]+\.h|<command-line>):\d+(?::\d+)?: ")
_EXPANDED = re.compile(r"^([^\s:]+:\d+(?::\d+)?): note: (?:in expansion of|expanded from) macro")
_INLINED = re.compile(r"^\s+inlined from '[^']*' at ([^\s:]+:\d+(?::\d+)?)[,:]")
_REFERENCED = re.compile(r"^>>> referenced by (\S+)")
_IN_FUNCTION = re.compile(r"(\S+): in function `([^']+)'")


@dataclass(frozen=True, slots=True)
class Fault:
    """What a build failed of."""

    reason: str
    """One line: place and message."""
    around: tuple[str, ...] = ()
    """What the log says beside it: where it was included from, the line of the source."""
    remedy: Remedy | None = None
    """What is known of such an error."""

    @property
    def innocent(self) -> bool:
        """Whether it says nothing of what was built: no memory, no disk, no tool."""
        return self.remedy is not None and self.remedy.innocent

    def error(self, what: str, log: Path | str) -> BuildError:
        """Make an error of it: `what` did not build, and `log` has all of it."""
        known = self.remedy.hint if self.remedy is not None else ""
        hint = "; ".join(filter(None, (known, f"all of it: {log}")))
        shown = "".join(f"\n  {line}" for line in self.around)
        if self.innocent:
            return ResourceError(
                f"{what} was not built, which is not its fault: {self.reason}{shown}", hint
            )
        return BuildError(f"{what} did not build: {self.reason}{shown}", hint)


def read(log: Path, roots: Iterable[Path] = ()) -> Fault:
    """Find the first error in a build's log; names of files below `roots` are shown without."""
    lines = log.read_text(errors="replace").splitlines()
    for root in roots:
        lines = [line.replace(f"{root}/", "") for line in lines]
    return find(lines)


def find(lines: Sequence[str]) -> Fault:
    """Find the first error; what is not the sources' fault counts only where nothing else is."""
    found = [_fault(lines, number) for number in _causes(lines)]
    if decisive := [each for each in found if each.remedy is not None and each.remedy.first]:
        return decisive[0]
    if found:
        return next((each for each in found if not each.innocent), found[0])
    return _fault(lines, _last_resort(lines)) if lines else Fault("its log is empty")


def _causes(lines: Sequence[str]) -> Iterator[int]:
    for number, line in enumerate(lines):
        after_failed = number > 0 and lines[number - 1].startswith("FAILED: ")  # ninja's command
        if STEP.match(line) or _NO_CAUSE.search(line) or after_failed:
            continue
        if _CAUSES.search(line):
            yield number


def _last_resort(lines: Sequence[str]) -> int:
    """Where no line says what is wrong: a warning that counts as an error, make, the end."""
    for number, line in enumerate(lines):
        if _AS_ERRORS.search(line):
            above = [at for at in range(number) if _WARNING.search(lines[at])]
            return above[-1] if above else number
    for number, line in enumerate(lines):
        if _GENERIC.match(line):
            return number
    return max((number for number, line in enumerate(lines) if line.strip()), default=0)


def _fault(lines: Sequence[str], number: int) -> Fault:
    before = _before(lines, number)
    behind = _behind(lines, number)
    reason = _placed(_MAKE.sub("", lines[number]).strip(), before, behind)
    if _is_generic(lines[number]) and before:
        reason = f"{before[0].strip()} ({reason})"
    shown = [each for each in (*before, *behind[:BEHIND]) if each.strip() != reason]
    around = tuple(map(sanitize.text, shown))
    remedy = next((each for each in remedies() if each.fits(reason, around)), None)
    return Fault(sanitize.line(reason, WIDTH), around, remedy)


def _is_generic(line: str) -> bool:
    """Whether a line only says that a command failed."""
    return _GENERIC.match(line) is not None and _CAUSES.search(line) is None


def _before(lines: Sequence[str], number: int) -> list[str]:
    """Return what leads to an error: includes, functions; of what only make reports, the output."""
    found: list[str] = []
    generic = _is_generic(lines[number])
    for line in reversed(lines[max(number - BEFORE, 0) : number]):
        if STEP.match(line) or not (generic or _LEADING.match(line)):
            break
        found.insert(0, line)
    return found


def _behind(lines: Sequence[str], number: int) -> list[str]:
    """Return what belongs to an error: excerpts, notes."""
    found: list[str] = []
    start = number + 2 if lines[number].startswith("FAILED: ") else number + 1
    for line in lines[start : start + BLOCK]:
        if (
            STEP.match(line)
            or _GENERIC.match(line)
            or _OTHER.match(line)
            or _AS_ERRORS.search(line)
            or _COUNTED.match(line)
            or (found and _KCONFIG.match(line))
        ):
            break
        if _LEADING.match(line) and not line.startswith(" "):
            break
        found.append(line)
    while found and not found[-1].strip():
        found.pop()
    return found


def _placed(reason: str, before: Sequence[str], behind: Sequence[str]) -> str:
    """Put the place that is to blame before a message that lacks it, or names a header's."""
    if match := _HEADER.match(reason):  # BUILD_BUG_ON() and all that a macro of a header does
        expanded = [each[1] for line in behind if (each := _EXPANDED.match(line))]
        inlined = [each[1] for line in before if (each := _INLINED.match(line))]
        places = [each for each in (*expanded[-1:], *inlined[-1:]) if ".h:" not in each]
        return f"{places[0]}: {reason[match.end() :]}" if places else reason
    syntax = reason.removesuffix("syntax error")
    if syntax != reason and behind and behind[0].startswith(syntax):
        return behind[0]  # Kconfig, which says then what it is
    if "recursive dependency" in reason:
        return " ".join([reason, *(f"({each.strip()})" for each in behind[:1])])
    referenced = [each[1] for line in behind if (each := _REFERENCED.match(line))]
    if referenced:
        return f"{reason} ({referenced[0]})"
    named = [each for line in before if (each := _IN_FUNCTION.search(line))]
    if named and "undefined reference" in reason:
        return f"{reason} ({named[-1][1]}, {named[-1][2]})"
    return reason
