# SPDX-License-Identifier: GPL-2.0-only
"""What the guest does: instructions on the RMP, accesses, exits, messages to the firmware."""

from __future__ import annotations

from collections.abc import Callable

from harness.differential.operations import Operation
from harness.differential.world import MEMORY, Fields, World, touched
from harness.uapi import ghcb as abi
from harness.vm import guest_message, layout
from harness.vm.attestation import Report, VerificationError
from harness.vm.errors import GuestError, MessageError
from harness.vm.guest_commands import GHCB_SHARED_BUFFER, VmgExitResult
from harness.vm.guest_message import MessageType, Messenger, ReportResponse
from harness.vm.mailbox import Command, Op
from harness.vm.psc import encode_list

_ENTRIES = 8
"""Entries of a list that are looked at afterwards."""


def _va(op: Operation) -> int:
    gpa = op.number("gpa")
    return layout.shared(gpa) if op.number("shared") else layout.private(gpa)


def _pvalidate(world: World, op: Operation) -> Fields:
    large, count = op.number("large"), op.number("count", 1)
    command = Command(Op.PVALIDATE, (_va(op), large, op.number("validate"), count))
    size = count * (layout.PAGE_SIZE_2M if large & 1 else layout.PAGE_SIZE)
    return world.command(op.number("cpu"), command) | world.rmp(touched(op.number("gpa"), size))


def _rmpadjust(world: World, op: Operation) -> Fields:
    count = op.number("count", 1)
    command = Command(Op.RMPADJUST, (_va(op), op.number("large"), op.number("rdx"), count))
    fields = world.command(op.number("cpu"), command)
    return fields | world.rmp(touched(op.number("gpa"), count * layout.PAGE_SIZE))


def _rmpquery(world: World, op: Operation) -> Fields:
    command = Command(Op.RMPQUERY, (_va(op), op.number("rcx"), op.number("rdx")))
    return world.command(op.number("cpu"), command)


def _load(world: World, op: Operation) -> Fields:
    command = Command(Op.LOAD, (_va(op), op.number("width", 8)))
    return world.command(op.number("cpu"), command) | world.rmp(touched(op.number("gpa")))


def _store(world: World, op: Operation) -> Fields:
    command = Command(Op.STORE, (_va(op), op.number("width", 8), op.number("value")))
    return world.command(op.number("cpu"), command) | world.rmp(touched(op.number("gpa")))


def _psc(world: World, op: Operation) -> Fields:
    """A list of raw entries; `end` and `cur` of the header unless they are as they should be."""
    entries = op.numbers("entries")
    index = op.number("cpu")
    if index >= len(world.guest.cpus):
        return {"vcpu": "none"}
    header = encode_list((), cur=op.number("cur"), end=op.number("end", len(entries) - 1))
    at = layout.ghcb(index) + GHCB_SHARED_BUFFER
    world.vm.write_gpa(at, header[:8] + encode_list(entries)[8:])
    world.answer = op.number("answer")
    fields = world.command(index, Command(Op.PSC, (op.number("limit", 40),)))
    world.answer = 0
    if not fields.keys() & {"vcpu", "stopped"}:
        fields["list"] = world.vm.read_gpa(at, 8 + 8 * min(len(entries), _ENTRIES)).hex(" ", 8)
    gpas = (raw & ((1 << 40) - 1) << 12 for raw in entries)
    return fields | world.rmp(sorted(set(gpas)))


def _msr(world: World, op: Operation) -> Fields:
    """One exchange of the MSR protocol."""
    value = op.number("value")
    world.answer = op.number("answer")
    fields = world.command(op.number("cpu"), Command(Op.VMGEXIT_MSR, (value,)))
    world.answer = 0
    if value & 0xFFF == abi.GHCB_MSR_PSC_REQ:
        fields |= world.rmp([value & ((1 << 40) - 1) << 12])
    return fields


def _vmgexit(world: World, op: Operation) -> Fields:
    names = ("code", "info1", "info2", "scratch", "rax", "rbx", "rcx", "rdx", "xcr0")
    args = [op.number(name) for name in names]
    args += [op.number("version", 2), op.number("usage")]
    command = Command(Op.VMGEXIT, tuple(args), op.number("flags"))
    return world.command(op.number("cpu"), command)


def _ghcb(world: World, op: Operation) -> Fields:
    """Register a GHCB."""
    return world.command(op.number("cpu"), Command(Op.GHCB_REGISTER, (op.number("gpa"),)))


def _hypercall(world: World, op: Operation) -> Fields:
    args = (op.number("nr"), op.number("a0"), op.number("a1"), op.number("a2"))
    return world.command(op.number("cpu"), Command(Op.HYPERCALL, args))


def _vmsa(world: World, op: Operation) -> Fields:
    """Write a VMSA for the second vCPU into a page, and have RMPADJUST mark it."""
    guest, page = world.guest, op.number("gpa")
    args = (
        *(layout.private(page), guest.image.entry, layout.stack_top(1), 1),
        *(op.number("features", 1), op.number("vmpl")),
    )
    fields = world.command(op.number("cpu"), Command(Op.BUILD_VMSA, args, op.number("unmarked")))
    return fields | world.rmp([page])


def _ap(world: World, op: Operation) -> Fields:
    """NAE AP_CREATION."""
    info1 = op.number("apic") << 32 | op.number("vmpl") << 16 | op.number("request")
    args = (abi.SVM_VMGEXIT_AP_CREATION, info1, op.number("gpa"), 0, op.number("features", 1))
    flags = 1 << 1  # RAX
    return world.command(op.number("cpu"), Command(Op.VMGEXIT, args, flags))


def _boot(world: World, op: Operation) -> Fields:
    """Run a vCPU, without commands, to its first notification."""
    index = op.number("cpu")
    fields = world.command(index, blocks=bool(op.number("blocks")))
    if "vcpu" not in fields:
        header = world.guest.cpu(index).header()
        fields["booted"] = f"{header.boots} index {header.index}"
        fields["state"] = str(world.guest.cpu(index).vcpu.mp_state)
    return fields


def _message(world: World, op: Operation) -> Fields:
    """A guest message by the first vCPU: what came back, as far as it is not secret or random."""
    cpu = world.guest.cpu(0) if world.guest.cpus else None
    if cpu is None or cpu.stopped is not None:
        return {"vcpu": "stopped before"}
    level, kind = op.number("level"), op.number("kind")
    request, response = op.number("request"), op.number("response")
    fields: Fields = {}
    try:
        messenger = world.messengers.get(level)
        if messenger is None:
            messenger = world.messengers[level] = Messenger(cpu, level=level)
        payload = op.number("size").to_bytes(64, "little")
        if kind == MessageType.REPORT_REQ:
            payload = guest_message.report_request(b"data", vmpl=op.number("vmpl"))
        elif kind == MessageType.KEY_REQ:
            payload = guest_message.key_request(vmpl=op.number("vmpl"))
        header = guest_message.MessageHeader(
            kind, len(payload), messenger.seqno + op.number("ahead"), level
        )
        page = guest_message.seal(messenger.key, header, payload)
        world.vm.write_gpa(request & -4096, page)
        sent = cpu.vmgexit_raw(
            abi.SVM_VMGEXIT_EXT_GUEST_REQUEST
            if op.number("extended")
            else abi.SVM_VMGEXIT_GUEST_REQUEST,
            *(request, response),
            **(
                {"rax": op.number("data"), "rbx": op.number("pages")}
                if op.number("extended")
                else {}
            ),
        )
        if world.exits:
            fields["exits"] = "; ".join(world.exits)
        left = VmgExitResult.of(sent)
        fields |= {"info1": hex(left.info1), "info2": hex(left.info2), "rbx": hex(left.rbx)}
        if not left.info2 and not left.info1 & 0xFFFFFFFF:
            fields |= _answer(world, messenger, response)
    except (GuestError, MessageError, VerificationError) as error:
        fields["error"] = f"{type(error).__name__}: {error}"
    except ValueError as error:  # no slot holds the page
        fields["error"] = str(error)
    _wipe(world, request & -4096, response & -4096)
    return fields | world.rmp([request & -4096, response & -4096])


def _wipe(world: World, *pages: int) -> None:
    """Zero pages as userspace sees them: what is sealed differs by its key."""
    for page in pages:
        if 0 <= page < MEMORY:
            world.vm.write_gpa(page, bytes(layout.PAGE_SIZE))


def _answer(world: World, messenger: Messenger, response: int) -> Fields:
    page = world.vm.read_gpa(response, layout.PAGE_SIZE)
    header, payload = guest_message.unseal(messenger.key, page)
    fields = {"answer": f"type {header.type} size {header.size} number {header.seqno}"}
    messenger.seqno = header.seqno + 1
    fields["answer status"] = hex(int.from_bytes(payload[:4], "little"))
    if header.type == MessageType.REPORT_RSP:
        raw = ReportResponse.decode(payload).report
        if raw:
            report = Report.decode(raw)
            fields["report"] = (
                f"version {report.version} policy {report.policy:#x} vmpl {report.vmpl} "
                f"measurement {report.measurement.hex()}"
            )
    return fields


OPERATIONS: dict[str, Callable[[World, Operation], Fields]] = {
    "pvalidate": _pvalidate,
    "rmpadjust": _rmpadjust,
    "rmpquery": _rmpquery,
    "load": _load,
    "store": _store,
    "psc": _psc,
    "msr": _msr,
    "vmgexit": _vmgexit,
    "ghcb": _ghcb,
    "hypercall": _hypercall,
    "vmsa": _vmsa,
    "ap": _ap,
    "boot": _boot,
    "message": _message,
}
