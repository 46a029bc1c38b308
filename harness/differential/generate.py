# SPDX-License-Identifier: GPL-2.0-only
"""Scripts from seeds: most operations are valid where they stand, some are odd on purpose.

A small model of the pages and of the launch is kept, so that what comes next can make sense.
It need not be right: what an operation gives is judged by comparing kernels, not by the model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from harness.differential.operations import Operation, Script, Start, Value
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi

T = TypeVar("T")

PRIVATE = uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE
PAGE, HUGE = 0x1000, 0x200000
MEMORY = 16 << 20
ODD_SHARE = 0.25
"""How many operations are odd."""
ODD_SIZES = (0, 1, 0x800, 0x1001, HUGE, MEMORY, 1 << 30, (1 << 64) - PAGE)
ODD_GPAS = (1, 0x400800, MEMORY - PAGE, MEMORY, 1 << 40, 1 << 51, 1 << 52, (1 << 64) - PAGE)
PAGE_TYPES = (1, 1, 1, 3, 4, 5, 6)
ODD_TYPES = (0, 2, 7, 8, 0xFF)
POLICY = sevapi.SNP_POLICY_MASK_SMT | sevapi.SNP_POLICY_MASK_RSVD_MBO
ODD_POLICIES = (
    *(0, 1 << 16, 1 << 17, POLICY | 0xFF, POLICY | 0xFF00, POLICY | 0x0137),
    *(POLICY | 1 << bit for bit in (18, 19, 20, 21, 25, 40)),
)


def generate(seed: int, length: int, start: Start | None = None) -> Script:
    """The script of a seed; without a start the seed chooses that, too."""
    rng = random.Random(seed)
    chosen = start or (Start.VM if rng.random() < 0.35 else Start.GUEST)
    maker = (_Launch if chosen is Start.VM else _Guest)(rng)
    return Script(chosen, seed, tuple(maker.next() for _ in range(length)))


class _Maker:
    """What launches and guests have in common: memory as userspace sees it."""

    pages: Sequence[int]

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.private: set[int] = set()

    def next(self) -> Operation:
        """One more operation."""
        kinds = self.kinds()
        kind = self.rng.choices([each for each, _ in kinds], [weight for _, weight in kinds])[0]
        return kind(self.rng.random() < ODD_SHARE)

    def kinds(self) -> list[tuple[Callable[[bool], Operation], float]]:
        """What may come next, and how often."""
        raise NotImplementedError

    def pick(self, odd: bool, usual: Sequence[T], unusual: Sequence[T]) -> T:
        """One of the usual, or where the operation is odd perhaps one of the others."""
        return self.rng.choice(unusual if odd and self.rng.random() < 0.5 else usual)

    def page(self, odd: bool, wanted: set[int] | None = None) -> int:
        """A page, of those wanted where there is one."""
        if odd and self.rng.random() < 0.3:
            return self.rng.choice(ODD_GPAS)
        if wanted and self.rng.random() < 0.85:
            return self.rng.choice(sorted(wanted))
        return self.rng.choice(self.pages)

    # -- memory ------------------------------------------------------------------------------

    def attributes(self, odd: bool) -> Operation:
        private = self.rng.random() < 0.6
        gpa, size = self.page(odd), self.pick(odd, (PAGE, PAGE, 2 * PAGE, HUGE), ODD_SIZES)
        if size % PAGE == 0 and size <= HUGE:
            span = {each for each in self.pages if gpa <= each < gpa + size}
            self.private = self.private | span if private else self.private - span
        return _op(
            "attributes",
            gpa=gpa,
            size=size,
            attributes=self.pick(odd, (PRIVATE if private else 0,), (1, 7, 0xF, 1 << 63)),
            flags=self.pick(odd, (0,), (0, 1)),
        )

    def fallocate(self, odd: bool) -> Operation:
        return _op(
            "fallocate",
            mode=self.pick(odd, (3, 3, 3, 1), (0, 2, 4, 0x10, 0x41)),
            gpa=self.page(odd),
            size=self.pick(odd, (PAGE, PAGE, 2 * PAGE, HUGE), ODD_SIZES[:-1]),
        )

    def file(self, odd: bool) -> Operation:
        if self.rng.random() < 0.5:
            return _op("truncate", size=self.pick(odd, (MEMORY, 0), (PAGE, 1)))
        size = self.pick(odd, (PAGE, HUGE), (0, 1, 1 << 62, (1 << 63) - 1))
        return _op("create_gmem", size=size, flags=self.pick(odd, (0,), (0, 2, 1 << 40)))

    def region(self, odd: bool) -> Operation:
        return _op(
            "region",
            slot=self.pick(odd, (1, 2), (1, 509, 40000)),
            flags=self.pick(odd, (0, 4, 4), (1, 2, 5, 6, 8)),
            gpa=self.pick(odd, (MEMORY, MEMORY + HUGE, 1 << 32), (0x400000, 1, 1 << 51, 1 << 52)),
            size=self.pick(odd, (0, PAGE, HUGE, HUGE), (1, 1 << 40, (1 << 64) - PAGE)),
            offset=self.pick(odd, (0, HUGE), (MEMORY, 1, MEMORY - PAGE, (1 << 64) - PAGE)),
        )

    def pre_fault(self, odd: bool) -> Operation:
        size = self.pick(odd, (PAGE, 2 * PAGE), (0, 1, 0x800))
        return _op("pre_fault", cpu=0, gpa=self.page(odd), size=size)

    def shared(self, odd: bool) -> Operation:
        value = self.rng.getrandbits(32) if self.rng.random() < 0.5 else 0
        return _op("shared", gpa=self.rng.choice(self.pages), value=value)

    def look(self, odd: bool) -> Operation:
        return _op("look", gpa=self.rng.choice(self.pages))

    def sev(self, odd: bool) -> Operation:
        return _op("sev", command=self.rng.choice((*range(24), 99, 103, 0xFFFF)))

    def registers(self, odd: bool) -> Operation:
        return _op("registers", cpu=self.rng.randrange(2), write=self.rng.randrange(2))


class _Launch(_Maker):
    """The launch commands in any order, mostly the right one."""

    pages = (*range(0x400000, 0x408000, PAGE), 0x600000, 0x601000, 0x7FF000, 0x800000)

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.private = set(self.pages)
        self.stage = 0
        """0 new, 1 initialised, 2 started, 3 finished."""
        self.vcpus = 0
        self.assigned: set[int] = set()
        self.part_number = 0

    def kinds(self) -> list[tuple[Callable[[bool], Operation], float]]:
        weights = [
            (self.init2, (8, 0.4, 0.3, 0.2)),
            (self.start, (0.7, 8, 0.4, 0.3)),
            (self.vcpu, (0.3, 6 if self.vcpus < 2 else 0.5, 2 if self.vcpus < 2 else 0.3, 0.5)),
            (self.update, (0.5, 0.7, 14, 2)),
            (self.part, (0.2, 0.2, 5, 0.5)),
            (self.finish, (0.3, 0.3, 1.3, 0.5)),
            (self.attributes, (0.5, 0.5, 4, 4)),
            (self.fallocate, (0.5, 0.5, 3, 4)),
            (self.pre_fault, (0.2, 0.2, 0.7, 1.5)),
            (self.file, (0.2, 0.2, 0.3, 0.3)),
            (self.region, (0.5, 0.3, 0.5, 0.5)),
            (self.registers, (0.1, 0.5, 0.5, 1)),
            (self.mp_state, (0, 0.2, 0.2, 0.5)),
            (self.run, (0.1, 0.4, 0.4, 1.2)),
            (self.sev, (0.5, 0.3, 0.5, 0.7)),
            (self.shared, (0.1, 0.1, 0.3, 0.3)),
            (self.look, (0.1, 0.1, 1, 1)),
        ]
        return [(kind, float(weight[self.stage])) for kind, weight in weights]

    def init2(self, odd: bool) -> Operation:
        fields = {
            "flags": self.pick(odd, (0,), (0, 1)),
            "features": self.pick(odd, (0,), (1, 0x20, 4, 1 << 63)),
            "ghcb": self.pick(odd, (0, 0, 1, 2), (3, 0xFFFF)),
        }
        if self.stage == 0 and not odd:
            self.stage = 1
        return _op("init2", **fields)

    def start(self, odd: bool) -> Operation:
        policy = self.pick(odd, (POLICY,), ODD_POLICIES)
        flags = self.pick(odd, (0,), (0, 1))
        if self.stage == 1 and policy == POLICY and not flags:
            self.stage = 2
        return _op("start", policy=policy, flags=flags)

    def vcpu(self, odd: bool) -> Operation:
        number = self.pick(odd, (self.vcpus,), (0, 1, 5000, 16384))
        if number == self.vcpus and self.vcpus < 2:
            self.vcpus += 1
        return _op("vcpu", id=number)

    def update(self, odd: bool) -> Operation:
        gpa = self.page(odd, self.private - self.assigned)
        kind = self.pick(odd, PAGE_TYPES, ODD_TYPES)
        size = self.pick(odd, (PAGE, PAGE, PAGE, 2 * PAGE, 3 * PAGE), (0, 1, 0x1001, 8 * PAGE))
        self.assigned |= {gpa + n * PAGE for n in range(size // PAGE)}
        return _op(
            "update",
            gpa=gpa,
            len=size,
            type=kind,
            offset=self.pick(odd, (0,), (0, 8, 0x800)),
            null=self.pick(odd and kind == 3, (0,), (1,)),
            flags=self.pick(odd, (0,), (0, 0, 1)),
        )

    def part(self, odd: bool) -> Operation:
        number = self.rng.randrange(4) if odd else self.part_number
        self.part_number += not odd
        return _op("part", part=number)

    def finish(self, odd: bool) -> Operation:
        if self.stage == 2 and not odd:
            self.stage = 3
        return _op(
            "finish",
            flags=self.pick(odd, (0,), (0, 1)),
            id_block=self.pick(odd, (0,), (0, 1)),
            auth_key=self.pick(odd, (0,), (0, 1)),
        )

    def mp_state(self, odd: bool) -> Operation:
        return _op("mp_state", cpu=self.rng.randrange(2), state=self.rng.choice((-1, 0, 3)))

    def run(self, odd: bool) -> Operation:
        return _op("run", cpu=0)


class _Guest(_Maker):
    """A guest that runs, and its VMM."""

    pages = (*range(0x400000, 0x408000, PAGE), 0x600000, 0x601000, 0x7FF000, 0x800000, 0xFFF000)
    windows = (0x380000, 0x381000, 0x3FF000)
    """Pages that are shared from the start."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.private = set(self.pages)
        self.valid: set[int] = set()
        self.vmsas: set[int] = set()
        self.second = False
        """Whether the second vCPU takes commands."""
        self.created = True
        """Whether the second vCPU may run when it is asked to: its VMSA was measured."""

    def kinds(self) -> list[tuple[Callable[[bool], Operation], float]]:
        return [
            (self.pvalidate, 12),
            (self.rmpadjust, 6),
            (self.rmpquery, 5),
            (self.load, 5),
            (self.store, 5),
            (self.psc, 9),
            (self.msr, 6),
            (self.vmgexit, 2),
            (self.message, 5),
            (self.vmsa, 3),
            (self.ap, 3),
            (self.boot, 2),
            (self.hypercall, 1.5),
            (self.ghcb, 0.4),
            (self.attributes, 3),
            (self.fallocate, 4),
            (self.pre_fault, 1),
            (self.file, 0.3),
            (self.region, 0.6),
            (self.mp_state, 1),
            (self.registers, 0.4),
            (self.shared, 2),
            (self.look, 2),
            (self.sev, 0.4),
            (self.late, 0.8),
        ]

    def cpu(self) -> int:
        return int(self.second and self.rng.random() < 0.3)

    def pvalidate(self, odd: bool) -> Operation:
        validate = self.rng.random() < 0.7
        gpa = self.page(odd, self.private - self.valid if validate else self.valid)
        large = self.pick(odd, (0,), (1, 2, 3, 1 << 31))
        if not large:
            self.valid = self.valid | {gpa} if validate else self.valid - {gpa}
        return _op(
            "pvalidate",
            cpu=self.cpu(),
            gpa=gpa & (1 << 38) - 1,
            large=large,
            validate=self.pick(odd, (int(validate),), (2, 3, 0xFF)),
            count=self.pick(odd, (1,), (1, 2, 4)),
            shared=self.pick(odd, (0,), (0, 0, 1)),
        )

    def rmpadjust(self, odd: bool) -> Operation:
        vmpl = self.pick(odd, (1, 2, 3), (0, 4, 0xFF))
        perms = self.rng.randrange(16) if not odd else self.rng.getrandbits(8)
        vmsa = self.rng.random() < 0.15
        return _op(
            "rmpadjust",
            cpu=self.cpu(),
            gpa=self.page(odd, self.valid) & (1 << 38) - 1,
            large=self.pick(odd, (0,), (1, 2, 3)),
            rdx=vmpl | perms << 8 | vmsa << 16 | self.pick(odd, (0,), (0, 1 << 17, 1 << 40)),
            shared=self.pick(odd, (0,), (0, 0, 1)),
        )

    def rmpquery(self, odd: bool) -> Operation:
        return _op(
            "rmpquery",
            cpu=self.cpu(),
            gpa=self.page(odd, self.valid) & (1 << 38) - 1,
            rcx=self.pick(odd, (1, 2, 3), (0, 4, 0xFF, 1 << 8)),
            rdx=self.pick(odd, (0,), (1, 1 << 40)),
            shared=self.pick(odd, (0,), (0, 0, 1)),
        )

    def _access(self, name: str, odd: bool, **more: int) -> Operation:
        shared = self.rng.random() < 0.3
        usual = set(self.windows) | (set(self.pages) - self.private) if shared else self.valid
        gpa = self.page(False, usual) + self.pick(odd, (0, 8), (0xFFC, 0xFF8, 4))
        return _op(name, cpu=self.cpu(), gpa=gpa, shared=int(shared), **more)

    def load(self, odd: bool) -> Operation:
        return self._access("load", odd, width=self.pick(odd, (8,), (1, 2, 4, 3)))

    def store(self, odd: bool) -> Operation:
        width = self.pick(odd, (8,), (1, 2, 4))
        return self._access("store", odd, width=width, value=self.rng.getrandbits(32) | 1)

    def _converted(self, gpa: int, private: bool) -> None:
        self.valid.discard(gpa)
        if private:
            self.private |= {gpa} & set(self.pages)
        else:
            self.private.discard(gpa)

    def psc(self, odd: bool) -> Operation:
        entries = []
        for _ in range(self.rng.choice((1, 1, 2, 3, 6))):
            private = self.rng.random() < 0.5
            wanted = set(self.pages) - self.private if private else self.private
            gpa = self.page(odd, wanted) & (1 << 52) - PAGE
            self._converted(gpa, private)
            op = self.pick(odd, (1 if private else 2,), (0, 3, 4, 5, 15))
            large = int(gpa % HUGE == 0 and self.rng.random() < 0.1)
            large = self.pick(odd, (large,), (0, 1))
            done = self.pick(odd, (0,), (0, 1, 512, 0xFFF))
            reserved = self.pick(odd, (0,), (0, 0, 1 << 57, 1 << 63))
            entries.append(done | gpa | op << 52 | large << 56 | reserved)
        more: dict[str, Value] = {}
        if odd and self.rng.random() < 0.4:
            more["end"] = self.rng.choice((0, len(entries), 252, 253, 254, 0xFFFF))
            more["cur"] = self.rng.choice((0, 0, 1, len(entries), 0xFFFF))
        answer = self.pick(odd, (0,), (0, 1, 2))
        return _op("psc", cpu=self.cpu(), entries=tuple(entries), answer=answer, **more)

    def msr(self, odd: bool) -> Operation:
        other = (0x002, 0x010, 0x080, 0x016, 0x000, 0x004 | 3 << 30, 0x00C, 0xFFF, 0x018)
        if self.rng.random() < 0.2:
            value = self.rng.choice(other)
        else:
            private = self.rng.random() < 0.5
            wanted = set(self.pages) - self.private if private else self.private
            gpa = self.page(odd, wanted) & (1 << 52) - PAGE
            self._converted(gpa, private)
            op = self.pick(odd, (1 if private else 2,), (0, 3, 4, 15))
            reserved = self.pick(odd, (0,), (0, 0, 1 << 56, 1 << 63))
            value = 0x014 | gpa | op << 52 | reserved
        return _op("msr", cpu=self.cpu(), value=value, answer=self.pick(odd, (0,), (0, 1, 2)))

    def vmgexit(self, odd: bool) -> Operation:
        port = 0x80 << 16 | 1 << 4 | 1 << 9  # OUT of a byte
        usual = (
            (0x8000FFFD, 0, 0, 0),
            (0x7B, port, 0, 2),
            (0x80000004 + 0x1000, 0, 0, 0),
            (0x77, 0, 0, 0),
            (0x89, 0, 0, 0),
        )
        code, info1, info2, flags = self.rng.choice(usual)
        return _op(
            "vmgexit",
            cpu=self.cpu(),
            code=self.pick(odd, (code,), (0x7A, 0x400, 0x80000012, 0x80000014, 0xFFFFFFFF)),
            info1=self.pick(odd, (info1,), (0, 1 << 63)),
            info2=info2,
            rax=0x5A,
            scratch=self.pick(odd, (0,), (0x300800, 0x400000, (1 << 64) - 1)),
            flags=flags | self.pick(odd, (0,), (1, 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10)),
            version=self.pick(odd, (2,), (0, 1, 3)),
            usage=self.pick(odd, (0,), (1, 0xFFFFFFFF)),
        )

    def message(self, odd: bool) -> Operation:
        fields = {
            "level": self.pick(odd, (0, 0, 0, 1, 3), (0, 2)),
            "kind": self.pick(odd, (5, 5, 3), (0, 1, 7, 13, 15, 0xFF)),
            "vmpl": self.pick(odd, (0,), (1, 3, 4)),
            "ahead": self.pick(odd, (0,), (0, 1, 2, 0xFFFF)),
            "request": self.pick(odd, (0x380000,), (0x380008, 0x400000, 0x381000, MEMORY, 1 << 52)),
            "response": self.pick(odd, (0x381000,), (0x381800, 0x401000, 0x380000, 1 << 40)),
            "size": 64,
        }
        if self.rng.random() < 0.25:
            data = self.pick(odd, (0x382000,), (0x382001, 0x400000, 1 << 52))
            fields |= {"extended": 1, "data": data, "pages": self.pick(odd, (1, 4), (0, 1 << 30))}
        return _op("message", **fields)

    def vmsa(self, odd: bool) -> Operation:
        gpa = self.page(False, {each for each in self.valid if each % HUGE})
        self.vmsas.add(gpa)
        return _op(
            "vmsa",
            cpu=0,
            gpa=gpa,
            features=self.pick(odd, (1,), (0, 1, 0x21, 1, 1 << 40)),  # see README of qemu/
            vmpl=self.pick(odd, (0,), (1, 3)),
            unmarked=self.pick(odd, (0,), (0, 1)),
        )

    def ap(self, odd: bool) -> Operation:
        self.created, self.second = True, False
        return _op(
            "ap",
            cpu=0,
            apic=self.pick(odd, (1,), (0, 2, 0xFFFFFFFF)),
            gpa=self.page(odd, self.vmsas),
            request=self.pick(odd, (1, 1, 0), (2, 2, 3, 0xFFFF)),
            vmpl=self.pick(odd, (0,), (0, 1, 4)),
            features=self.pick(odd, (1,), (0, 3, 9, 0x21)),
        )

    def boot(self, odd: bool) -> Operation:
        blocks = self.second or not self.created
        self.second = self.second or self.created
        return _op("boot", cpu=1, blocks=int(blocks))

    def hypercall(self, odd: bool) -> Operation:
        gpa = self.page(odd, set(self.pages))
        flags = self.pick(odd, (0, 0x10), (1, 0x11, 0x20, 1 << 40))
        nr = self.pick(odd, (uapi.KVM_HC_MAP_GPA_RANGE,), (0, 1, 5, 11, 99))
        return _op("hypercall", cpu=0, nr=nr, a0=gpa, a1=self.pick(odd, (1,), (0, 512)), a2=flags)

    def ghcb(self, odd: bool) -> Operation:
        gpa = self.pick(odd, (0x300000, 0x304000), (0x300001, 0x400000, 1 << 45))
        return _op("ghcb", cpu=0, gpa=gpa & -PAGE)

    def mp_state(self, odd: bool) -> Operation:
        state = self.pick(odd, (-1, 3), (0, 1, 4, 9, 77))
        return _op("mp_state", cpu=1, state=state)

    def late(self, odd: bool) -> Operation:
        """A launch command after the launch."""
        return self.rng.choice(
            (
                _op("init2", flags=0, features=0, ghcb=0),
                _op("start", policy=POLICY, flags=0),
                _op("update", gpa=self.page(odd), len=PAGE, type=1),
                _op("finish", flags=0),
                _op("vcpu", id=7),
            )
        )


def _op(name: str, **args: Value) -> Operation:
    """An operation without the arguments that are zero."""
    return Operation(name, {key: value for key, value in args.items() if value != 0})
