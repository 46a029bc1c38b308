# SPDX-License-Identifier: GPL-2.0-only
"""Splats out of a kernel log: the head, and the block that belongs to it.

A log is what a kernel in trouble, or a guest's program, chose to print: of any size, with
anything in it.  Work is bounded by the log's length, results by MAX_SPLATS and MAX_BLOCK.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.report import sanitize
from harness.splats import records
from harness.splats.patterns import ECHO, HINT, LIST_MESSAGE, Kind, classify, refine
from harness.splats.records import Record

MAX_SPLATS = 50
MAX_LINES = 250
"""Lines of one block."""
MAX_BLOCK = 32 * 1024
"""Characters of one block."""
TITLE_WIDTH = 240

_BEFORE = 12
"""Lines between "cut here" and the head: what the WARN says, registers of an interrupted one."""

_CUT_HERE = re.compile(r"-{6,16}\[ cut here \]-{6,16}")
_RULE = re.compile(r"={20,100}$")
_END = re.compile(r"---\[ end (?:trace |Kernel panic)")

# Lines that belong to a report: stacks, registers, locks, pages, stalls.
_PART = re.compile(
    r"\s{0,8}(?:\? )?[\w.]{1,160}\+0x[0-9a-f]{1,16}/0x"
    r"|\s{0,4}</?[A-Z#]{2,8}>|\s{0,4}\[<[0-9a-f]{8,16}>\]"
    r"|(?:RIP|RSP|RAX|RDX|RBP|R10|R13|FS|CS|CR2|DR0|DR3|PKRU|EFLAGS|Code|CPU|Call Trace"
    r"|Hardware name|Modules linked in|Workqueue|Comm|task|NIP|PGD|P4D|Oops|#PF|page|flags|raw"
    r"|page dumped because|irq event stamp|hardirqs last|softirqs last|memory|addr|file|Tainted"
    r"|preempt_count|in_atomic\(\)|RCU nest depth|Preemption disabled|stack backtrace"
    r"|Call trace|KASAN|Allocated by|Freed by|Write of size|Read of size|The buggy|Memory state"
    r"|Sending NMI|NMI backtrace|Showing|Rebooting in|Kernel Offset|Reported by|Value changed"
    r"|Object|Slab|Redzone|Padding|Uninit was|Local variable|Last potentially)\b"
    r"|\d{1,4} locks? held by |no locks held by |\s{0,3}#\d{1,3}: |-> #\d|\s{1,12}\*\*\* DEADLOCK"
    r"|(?:[\w./-]{1,40} )?(?:is trying to (?:acquire|release) lock|but task is already holding)"
    r"|the existing dependency chain|which lock already depends|other info that might help"
    r"|\s{1,8}(?:Possible (?:unsafe|interrupt unsafe) locking|CPU0|lock\(|<Interrupt>|May be due)"
    r"|[>\s]{0,4}ffff[0-9a-f]{4,12}: |\s{0,4}(?:read|write|race at) |rcu: |SEV-SNP: PFN"
    r"|\{(?:\{)?[A-Z -]|workqueue \w|\s{1,4}(?:pwq|in-flight|pending)"
)

# "BUG: unable to handle ..." and "kernel BUG at" are followed by the "Oops:" that they are.
_BEGINS_OOPS = frozenset({Kind.BUG, Kind.OOPS, Kind.LIST_CORRUPTION})
_OOPS = frozenset({Kind.OOPS, Kind.GPF})
# Reports between two rules, and how many foreign lines one of another kind may have inside.
_RULED = frozenset({Kind.KASAN, Kind.KCSAN, Kind.KMSAN, Kind.KFENCE})
_GAP = {Kind.LOCKDEP: 40, Kind.RCU_STALL: 40, Kind.HUNG_TASK: 20, Kind.SLAB: 40}
_RULED_GAP = 60
_USUAL_GAP = 12


@dataclass(frozen=True, slots=True)
class Splat:
    """One report of the kernel about itself.  All text in it is safe to print."""

    kind: Kind
    head: str
    """The line that says it, without time stamp."""
    block: str
    """From "cut here" or the head to the end of the trace, as it was logged."""
    message: str = ""
    """What a WARN() said, in one line."""

    @property
    def echo(self) -> bool:
        """Whether it is the panic that ends what the splat before it began."""
        return bool(ECHO.match(self.head))

    @property
    def title(self) -> str:
        """Head and message, in one line."""
        return f"{self.head} ({self.message})" if self.message else self.head


def find_splats(log: str) -> list[Splat]:
    """Return the splats of a log in their order; a last one of kind UNREAD where there are more."""
    found: list[Splat] = []
    absorbed: set[int] = set()
    seen = -1
    for hint in HINT.finditer(log):
        # One hint is enough to look at a line, and a line is looked at once.
        if hint.start() < seen:
            continue
        stream = records.starting(log, hint.start(), max(seen, 0))
        head = next((each for each in stream if each.end > hint.start()), None)
        if head is None or head.start < seen:
            continue
        seen = head.end
        kind = classify(head.message, stamped=head.stamped)
        if kind is None or head.start in absorbed:
            continue
        if len(found) == MAX_SPLATS:
            more = f"more than {MAX_SPLATS} splats; the rest of the log was not read"
            found.append(Splat(Kind.UNREAD, more, more))
            break
        found.append(_splat(log, head, kind, absorbed))
    return found


def _splat(log: str, head: Record, kind: Kind, absorbed: set[int]) -> Splat:
    opening, message = _opening(log, head, kind)
    kind = refine(kind, message)
    lines = [*opening, head, *_rest(log, head, kind, absorbed)]
    raw = "\n".join(each.raw for each in lines)
    if len(raw) > MAX_BLOCK:
        raw = raw[:MAX_BLOCK] + "\n[the rest of this report was left out]"
    return Splat(
        kind=kind,
        head=sanitize.line(head.message, TITLE_WIDTH),
        block=sanitize.text(raw),
        message=sanitize.line(message, TITLE_WIDTH),
    )


def _opening(log: str, head: Record, kind: Kind) -> tuple[list[Record], str]:
    """Find what was printed before the head: "cut here" and the WARN's own words, or a rule."""
    lines = [
        each
        for each in records.before(log, head.start, _BEFORE)
        if not head.caller or each.caller == head.caller
    ]
    for index in range(len(lines) - 1, -1, -1):
        line = lines[index].message
        if _END.match(line) or classify(line, stamped=lines[index].stamped):
            break
        if _CUT_HERE.match(line):
            said = " ".join(each.message for each in lines[index + 1 :])
            # With BUG_ON_DATA_CORRUPTION the words come before "cut here" (linux/bug.h, 6.12).
            if kind is Kind.BUG and index and LIST_MESSAGE.match(lines[index - 1].message):
                index -= 1
                said = lines[index].message
            return lines[index:], said
        if _RULE.match(line):
            return lines[index:], ""
    return [], ""


def _rest(log: str, head: Record, kind: Kind, absorbed: set[int]) -> list[Record]:
    """Return the records after the head that belong to it."""
    taken: list[Record] = []
    size = kept = gap = 0
    allowed = _RULED_GAP if kind in _RULED else _GAP.get(kind, _USUAL_GAP)
    begins_oops = kind in _BEGINS_OOPS
    stream = records.starting(log, head.end)
    for record in stream:
        if record.start < head.end:
            continue
        if head.caller and record.caller != head.caller:
            gap += 1
            if gap > MAX_LINES:
                break
            continue
        line = record.message
        other = classify(line, stamped=record.stamped)
        if other is not None and not (begins_oops and other in _OOPS):
            break
        if _CUT_HERE.match(line):
            break
        taken.append(record)
        size += len(record.raw) + 1
        if other is not None:
            begins_oops = False
            absorbed.add(record.start)
        if _END.match(line) or (kind in _RULED and _RULE.match(line)):
            kept = len(taken)
            break
        if other is not None or _PART.match(line):
            kept, gap = len(taken), 0
        elif line.strip():
            gap += 1
        if gap > allowed or size > MAX_BLOCK or len(taken) >= MAX_LINES:
            break
    return taken[:kept]
