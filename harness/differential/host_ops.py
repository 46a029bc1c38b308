# SPDX-License-Identifier: GPL-2.0-only
"""What userspace does to a VM: launch commands, memory, vCPUs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from harness.differential.operations import Operation
from harness.differential.world import Fields, World, errno_name, sev_fields, touched
from harness.operations import Fallocate, Ftruncate, Ioctl, Read, Write
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.vm import boot
from harness.vm.errors import KvmIoctlError
from harness.vm.guest import GuestCpu
from harness.vm.vm import fill

STAGED = 10 * 4096
"""Bytes that a LAUNCH_UPDATE of a script can take: what lies behind is not the same everywhere."""


def _init2(world: World, op: Operation) -> Fields:
    struct = sevapi.kvm_sev_init(
        flags=op.number("flags"),
        vmsa_features=op.number("features"),
        ghcb_version=op.number("ghcb"),
    )
    return sev_fields(world.vm.sev_call(sevapi.KVM_SEV_INIT2, struct))


def _start(world: World, op: Operation) -> Fields:
    command = world.vm.interface.launch_start
    struct = fill(command.struct, policy=op.number("policy"), **_flags(world, op))
    return sev_fields(world.vm.sev_call(command.id, struct))


def _update(world: World, op: Operation) -> Fields:
    """LAUNCH_UPDATE from staged memory whose pages are 1, 2, 3, ... repeated."""
    vm, command = world.vm, world.vm.interface.launch_update
    source = vm.stage(b"".join(bytes([number + 1]) * 4096 for number in range(STAGED // 4096)))
    source += op.number("offset")
    gpa, length = op.number("gpa"), op.number("len")
    struct = fill(
        command.struct,
        gfn_start=gpa >> 12,
        uaddr=0 if op.number("null") else source,
        len=length,
        type=op.number("type"),
        **_flags(world, op),
    )
    result = vm.sev_call(command.id, struct)
    after = command.struct.from_buffer_copy(result.data)
    moved = after.uaddr - source if after.uaddr else 0
    fields = sev_fields(result) | {"left": f"{after.gfn_start:#x} {moved:#x} {after.len:#x}"}
    return fields | world.rmp(touched(gpa, length))


def _part(world: World, op: Operation) -> Fields:
    """LAUNCH_UPDATE of a part of the test guest's image, as its launch has it."""
    vm, command = world.vm, world.vm.interface.launch_update
    parts = boot.launch_pages(world.guest.image, cbit=vm.host.cbit, vcpus=2)
    part = parts[op.number("part") % len(parts)]
    struct = vm.update_struct(part.gpa, vm.stage(part.data), len(part.data), part.type)
    fields = sev_fields(vm.sev_call(command.id, struct))
    return fields | world.rmp(touched(part.gpa, len(part.data)))


def _finish(world: World, op: Operation) -> Fields:
    command = world.vm.interface.launch_finish
    struct = fill(
        command.struct,
        id_block_en=op.number("id_block"),
        auth_key_en=op.number("auth_key"),
        **_flags(world, op),
    )
    return sev_fields(world.vm.sev_call(command.id, struct))


def _sev(world: World, op: Operation) -> Fields:
    """Any command with a structure of zeros."""
    return sev_fields(world.vm.sev_call(op.number("command"), bytes(64)))


def _flags(world: World, op: Operation) -> dict[str, int]:
    return {"flags": op.number("flags")} if world.vm.interface.launch_flags else {}


def _attributes(world: World, op: Operation) -> Fields:
    result = world.vm.set_memory_attributes_raw(
        op.number("gpa"), op.number("size"), op.number("attributes"), op.number("flags")
    )
    fields = {"errno": errno_name(result.errno)}
    return fields | world.rmp(touched(op.number("gpa"), op.number("size")))


def _fallocate(world: World, op: Operation) -> Fields:
    gpa, size = _signed(op.number("gpa")), _signed(op.number("size"))
    call = Fallocate(world.vm.gmems[0].fd, op.number("mode"), gpa, size)
    fields = {"errno": errno_name(world.kernel.call(call).errno)}
    return fields | world.rmp(touched(op.number("gpa"), op.number("size")))


def _signed(value: int) -> int:
    """As the kernel's loff_t has it."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _truncate(world: World, op: Operation) -> Fields:
    call = Ftruncate(world.vm.gmems[0].fd, op.number("size"))
    return {"errno": errno_name(world.kernel.call(call).errno)}


def _create_gmem(world: World, op: Operation) -> Fields:
    try:
        gmem = world.vm.create_gmem(op.number("size"), op.number("flags"))
    except KvmIoctlError as error:
        return {"errno": errno_name(error.errno or 0)}
    world.vm.gmems.remove(gmem)
    gmem.close()
    return {"errno": "0"}


def _region(world: World, op: Operation) -> Fields:
    """KVM_SET_USER_MEMORY_REGION2 over spare memory and the guest's own file; size 0 deletes."""
    region = uapi.kvm_userspace_memory_region2(
        slot=op.number("slot"),
        flags=op.number("flags"),
        guest_phys_addr=op.number("gpa"),
        memory_size=op.number("size"),
        userspace_addr=world.spare,
        guest_memfd_offset=op.number("offset"),
        guest_memfd=world.vm.gmems[0].fd,
    )
    call = Ioctl(world.vm.fd, uapi.KVM_SET_USER_MEMORY_REGION2, bytes(region))
    return {"errno": errno_name(world.kernel.call(call).errno)}


def _pre_fault(world: World, op: Operation) -> Fields:
    cpu = _cpu(world, op)
    if cpu is None:
        return {"vcpu": "none"}
    gpa, size = op.number("gpa"), op.number("size")
    errno, at, left = cpu.vcpu.pre_fault(gpa, size)
    fields = {"errno": errno_name(errno), "left": f"{at:#x} {left:#x}"}
    return fields | world.rmp(touched(gpa, size))


def _vcpu(world: World, op: Operation) -> Fields:
    try:
        world.guest.add_vcpu(op.number("id"))
    except KvmIoctlError as error:
        return {"error": str(error)}
    return {"error": "none"}


def _registers(world: World, op: Operation) -> Fields:
    """Read and write the registers of a vCPU."""
    cpu = _cpu(world, op)
    if cpu is None:
        return {"vcpu": "none"}
    fields: Fields = {}
    calls: dict[str, tuple[int, int, type[ctypes.Structure]]] = {
        "regs": (uapi.KVM_GET_REGS, uapi.KVM_SET_REGS, uapi.kvm_regs),
        "sregs": (uapi.KVM_GET_SREGS, uapi.KVM_SET_SREGS, uapi.kvm_sregs),
    }
    for name, (get, put, struct) in calls.items():
        got = world.kernel.ioctl(cpu.vcpu.fd, get, bytes(ctypes.sizeof(struct)))
        fields[f"get {name}"] = errno_name(got.errno)
        if got.ok and op.number("write"):
            back = world.kernel.ioctl(cpu.vcpu.fd, put, got.data)
            fields[f"set {name}"] = errno_name(back.errno)
    return fields


def _mp_state(world: World, op: Operation) -> Fields:
    """KVM_SET_MP_STATE (a negative state: do not), then KVM_GET_MP_STATE."""
    cpu = _cpu(world, op)
    if cpu is None:
        return {"vcpu": "none"}
    fields: Fields = {}
    state = op.number("state", -1)
    if state >= 0:
        request = bytes(uapi.kvm_mp_state(mp_state=state))
        done = world.kernel.ioctl(cpu.vcpu.fd, uapi.KVM_SET_MP_STATE, request)
        fields["errno"] = errno_name(done.errno)
    return fields | {"state": str(cpu.vcpu.mp_state)}


def _run(world: World, op: Operation) -> Fields:
    return world.run(op.number("cpu"))


def _shared(world: World, op: Operation) -> Fields:
    """Write a word to userspace's view of a page, unless it is zero, and read it back."""
    address = world.vm.shared_address(op.number("gpa"), 8)
    if op.number("value"):
        world.kernel.check(Write(address, op.number("value").to_bytes(8, "little")))
    return {"word": world.kernel.check(Read(address, 8)).data.hex()}


def _look(world: World, op: Operation) -> Fields:
    """The content of private memory as the host's bus has it."""
    return {"content": world.content(op.number("gpa"))} | world.rmp([op.number("gpa")])


def _cpu(world: World, op: Operation) -> GuestCpu | None:
    index = op.number("cpu")
    return world.guest.cpus[index] if index < len(world.guest.cpus) else None


OPERATIONS: dict[str, Callable[[World, Operation], Fields]] = {
    "init2": _init2,
    "start": _start,
    "update": _update,
    "part": _part,
    "finish": _finish,
    "sev": _sev,
    "attributes": _attributes,
    "fallocate": _fallocate,
    "truncate": _truncate,
    "create_gmem": _create_gmem,
    "region": _region,
    "pre_fault": _pre_fault,
    "vcpu": _vcpu,
    "registers": _registers,
    "mp_state": _mp_state,
    "run": _run,
    "shared": _shared,
    "look": _look,
}
