# SPDX-License-Identifier: GPL-2.0-only
"""NAE events that stand for an intercepted instruction: CPUID, MSRs, port I/O, hypercalls, MMIO.

arch/x86/kvm/svm/sev.c and x86.c, Linux 6.12; GHCB specification 56421, section 4.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from harness.emulator.cpu.xstate import xsave_size
from harness.emulator.kvm import ghcb as page
from harness.emulator.kvm import lapic
from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.exit import LEAVE, RESUME
from harness.emulator.memory import PAGE_SIZE
from harness.uapi import ghcb as abi
from harness.uapi import kvm as uapi

if TYPE_CHECKING:
    from harness.emulator.kvm.ghcb import Ghcb
    from harness.emulator.kvm.vcpu import Vcpu

U32 = 0xFFFFFFFF
U64 = 0xFFFFFFFFFFFFFFFF
GP_VECTOR = 13
SCRATCH_LIMIT = 16 * PAGE_SIZE
"""GHCB_SCRATCH_AREA_LIMIT."""
MMIO_MAX = 8
XSAVEC_OR_XSAVES = 1 << 1 | 1 << 3
"""CPUID 0xD, index 1, EAX."""


# -- guest memory as KVM sees it -----------------------------------------------------------


def user_address(vcpu: Vcpu, gpa: int) -> int | None:
    """Address in user space of the shared memory behind a GPA (gfn_to_hva), None without a slot."""
    slot = vcpu.vm.slots.find(gpa >> 12)
    if slot is None:
        return None
    return int(slot.userspace_addr + gpa - slot.base_gfn * PAGE_SIZE)


def read_guest(vcpu: Vcpu, gpa: int, length: int) -> bytes | None:
    """kvm_read_guest: shared memory only; None where a part has no memory."""
    data = bytearray()
    while length:
        part = min(length, PAGE_SIZE - gpa % PAGE_SIZE)
        address = user_address(vcpu, gpa)
        if address is None:
            return None
        try:
            data += vcpu.vm.kvm.process.memory.read(address, part)
        except KvmError:
            return None
        gpa, length = gpa + part, length - part
    return bytes(data)


def write_guest(vcpu: Vcpu, gpa: int, data: bytes) -> bool:
    """kvm_write_guest: shared memory only; False where a part has no memory."""
    while data:
        part = min(len(data), PAGE_SIZE - gpa % PAGE_SIZE)
        address = user_address(vcpu, gpa)
        if address is None:
            return False
        try:
            vcpu.vm.kvm.process.memory.write(address, data[:part])
        except KvmError:
            return False
        gpa, data = gpa + part, data[part:]
    return True


def scratch_area(vcpu: Vcpu, request: Ghcb, length: int) -> memoryview | None:
    """setup_vmgexit_scratch: the buffer an event works on, None where it was answered as wrong.

    From GHCB version 2 on it must lie within the GHCB's shared buffer.
    """
    start, ghcb_gpa = request.scratch, vcpu.state.vmcb.ghcb_gpa
    inside = start & ~(PAGE_SIZE - 1) == ghcb_gpa
    offset = start - ghcb_gpa
    if start and inside and page.SHARED_BUFFER <= offset <= page.SHARED_BUFFER_END - length:
        return request.page[offset : page.SHARED_BUFFER_END]
    if start and not inside and vcpu.vm.sev.ghcb_version < 2 and length <= SCRATCH_LIMIT:
        address = user_address(vcpu, start)
        if address is None:
            raise KvmError(errno.EFAULT)
        pa = vcpu.vm.kvm.process.memory.translate(address, length)
        return vcpu.vm.machine.memory.view(pa, length)
    vcpu.vm.machine.debug(f"vmgexit: scratch area {start:#x} is not valid")
    request.malformed(abi.GHCB_ERR_INVALID_SCRATCH_AREA)
    return None


# -- CPUID, TSC and the rest ---------------------------------------------------------------


def cpuid(vcpu: Vcpu, function: int, index: int) -> tuple[int, int, int, int]:
    """kvm_cpuid: EAX, EBX, ECX, EDX of the leaf userspace has set, zeros where it has not."""
    for entry in vcpu.cpuid:
        if entry.function == function and (
            not entry.flags & uapi.KVM_CPUID_FLAG_SIGNIFCANT_INDEX or entry.index == index
        ):
            ebx = entry.ebx
            # kvm_update_cpuid_runtime: the size of what is enabled, not of all there is.
            if (function, index) == (0xD, 0):
                ebx = xsave_size(vcpu.state.xcr0, compact=False)
            elif (function, index) == (0xD, 1) and entry.eax & XSAVEC_OR_XSAVES:
                ebx = xsave_size(vcpu.state.xcr0, compact=True)
            return entry.eax, ebx, entry.ecx, entry.edx
    return 0, 0, 0, 0


def cpuid_event(vcpu: Vcpu, request: Ghcb) -> bool:
    """CPUID: function in RAX, index in RCX."""
    values = cpuid(vcpu, request.rax & U32, request.rcx & U32)
    request.rax, request.rbx, request.rcx, request.rdx = values
    return RESUME


def rdtsc(vcpu: Vcpu, request: Ghcb) -> bool:
    """RDTSC and RDTSCP: the processor's own counter."""
    tsc = vcpu.state.cpu.tsc() if vcpu.state.cpu is not None else 0
    request.rax, request.rdx = tsc & U32, tsc >> 32 & U32
    request.rcx = 0
    return RESUME


def rdpmc(vcpu: Vcpu, request: Ghcb) -> bool:
    """RDPMC: there is no virtual PMU."""
    request.exception(GP_VECTOR)
    return RESUME


def wbinvd(vcpu: Vcpu, request: Ghcb) -> bool:
    """WBINVD: nothing to do without non-coherent DMA (kvm_emulate_wbinvd)."""
    return RESUME


def msr(vcpu: Vcpu, request: Ghcb) -> bool:
    """RDMSR and WRMSR; what KVM does not know raises #GP in the guest."""
    index = request.rcx & U32
    if request.info_1:
        value = (request.rdx & U32) << 32 | request.rax & U32
        if not lapic.write_msr(vcpu, index, value):
            request.exception(GP_VECTOR)
        return RESUME
    known = lapic.read_msr(vcpu, index)
    if known is None:
        request.exception(GP_VECTOR)
    else:
        request.rax, request.rdx = known & U32, known >> 32
    return RESUME


# -- hypercalls ----------------------------------------------------------------------------


def vmmcall(vcpu: Vcpu, request: Ghcb) -> bool:
    """VMMCALL: a KVM hypercall; only MAP_GPA_RANGE is served."""
    arguments = (request.rbx, request.rcx, request.rdx)
    result = hypercall(vcpu, request.rax, arguments, request.cpl)
    if result is None:
        vcpu.state.completion = _complete_vmmcall
        return LEAVE
    request.rax = result & U64
    return RESUME


def hypercall(vcpu: Vcpu, nr: int, arguments: tuple[int, int, int], cpl: int) -> int | None:
    """__kvm_emulate_hypercall: the result, or None where userspace was asked."""
    if cpl:
        return -uapi.KVM_EPERM
    if nr in (uapi.KVM_HC_VAPIC_POLL_IRQ, uapi.KVM_HC_SCHED_YIELD):
        return 0  # hints, which change nothing here
    enabled = vcpu.vm.hypercall_exits >> uapi.KVM_HC_MAP_GPA_RANGE & 1
    if nr != uapi.KVM_HC_MAP_GPA_RANGE or not enabled:
        return -uapi.KVM_ENOSYS
    gpa, npages, attributes = arguments
    if gpa % PAGE_SIZE or not npages or (gpa >> 12) + npages > U64:
        return -uapi.KVM_EINVAL
    run = vcpu.run
    run.exit_reason = uapi.KVM_EXIT_HYPERCALL
    run.hypercall.nr = nr
    run.hypercall.args[0], run.hypercall.args[1], run.hypercall.args[2] = gpa, npages, attributes
    run.hypercall.ret = 0
    run.hypercall.flags = uapi.KVM_EXIT_HYPERCALL_LONG_MODE
    return None


def _complete_vmmcall(vcpu: Vcpu) -> bool:
    """complete_hypercall_exit."""
    assert vcpu.state.ghcb is not None
    vcpu.state.ghcb.rax = vcpu.run.hypercall.ret
    return RESUME


# -- port I/O ------------------------------------------------------------------------------


def io_inputs(request: Ghcb) -> tuple[int, ...]:
    """The fields that SVM_EXIT_IOIO needs: a string its scratch area, OUT its RAX."""
    if request.info_1 & abi.SVM_IOIO_STR_MASK:
        return (page.SCRATCH,)
    return () if request.info_1 & abi.SVM_IOIO_TYPE_MASK else (page.RAX,)


def io(vcpu: Vcpu, request: Ghcb) -> bool:
    """IN, OUT and their string forms become KVM_EXIT_IO."""
    size = request.info_1 >> abi.SVM_IOIO_SIZE_SHIFT & 7
    if not size:
        return RESUME
    port, is_in = request.info_1 >> 16 & 0xFFFF, bool(request.info_1 & abi.SVM_IOIO_TYPE_MASK)
    if request.info_1 & abi.SVM_IOIO_STR_MASK:
        return _string_io(vcpu, request, port, size, is_in)
    data = b"" if is_in else (request.rax & U32).to_bytes(4, "little")[:size]
    ask_io(vcpu, port, size, 1, is_in=is_in, data=data)

    def complete(vcpu: Vcpu) -> bool:
        if is_in:
            assert vcpu.state.ghcb is not None
            kept = vcpu.state.ghcb.rax & ~((1 << 8 * size) - 1) if size < 4 else 0
            vcpu.state.ghcb.rax = kept | int.from_bytes(io_data(vcpu, size), "little")
        return RESUME

    vcpu.state.completion = complete
    return LEAVE


def _string_io(vcpu: Vcpu, request: Ghcb, port: int, size: int, is_in: bool) -> bool:
    """sev_es_string_io: SW_EXITINFO2 counts the elements; a page of data an exit."""
    count = request.info_2
    if count > 0x7FFFFFFF or count * size > 0x7FFFFFFF:
        raise KvmError(errno.EINVAL)
    if not count:
        return RESUME
    area = scratch_area(vcpu, request, count * size)
    if area is None:
        return RESUME
    return _string_part(vcpu, area[: count * size], port, size, is_in)


def _string_part(vcpu: Vcpu, left: memoryview, port: int, size: int, is_in: bool) -> bool:
    if not left:
        return RESUME
    length = min(len(left), PAGE_SIZE // size * size)
    data = b"" if is_in else bytes(left[:length])
    ask_io(vcpu, port, size, length // size, is_in=is_in, data=data)

    def complete(vcpu: Vcpu) -> bool:
        if is_in:
            left[:length] = io_data(vcpu, length)
        return _string_part(vcpu, left[length:], port, size, is_in)

    vcpu.state.completion = complete
    return LEAVE


def ask_io(vcpu: Vcpu, port: int, size: int, count: int, *, is_in: bool, data: bytes) -> None:
    """Fill in KVM_EXIT_IO; `data` is what an OUT writes."""
    run = vcpu.run
    run.exit_reason = uapi.KVM_EXIT_IO
    run.io.direction = uapi.KVM_EXIT_IO_IN if is_in else uapi.KVM_EXIT_IO_OUT
    run.io.size, run.io.port, run.io.count = size, port, count
    run.io.data_offset = PAGE_SIZE * uapi.KVM_PIO_PAGE_OFFSET
    if data:
        vcpu.vm.machine.memory.write(vcpu.run_pa + PAGE_SIZE * uapi.KVM_PIO_PAGE_OFFSET, data)


def io_data(vcpu: Vcpu, length: int) -> bytes:
    """What userspace answered to an IN."""
    return vcpu.vm.machine.memory.read(vcpu.run_pa + PAGE_SIZE * uapi.KVM_PIO_PAGE_OFFSET, length)


# -- MMIO ----------------------------------------------------------------------------------


def mmio_read(vcpu: Vcpu, request: Ghcb) -> bool:
    """MMIO read: address in SW_EXITINFO1, length in SW_EXITINFO2, data to the scratch area."""
    return _mmio(vcpu, request, write=False)


def mmio_write(vcpu: Vcpu, request: Ghcb) -> bool:
    """MMIO write: address in SW_EXITINFO1, length in SW_EXITINFO2, data from the scratch area."""
    return _mmio(vcpu, request, write=True)


def _mmio(vcpu: Vcpu, request: Ghcb, *, write: bool) -> bool:
    gpa, length = request.info_1, request.info_2
    if not length:
        return RESUME
    if vcpu.vm.sev.ghcb_version >= 2 and length > MMIO_MAX:
        request.malformed(abi.GHCB_ERR_INVALID_INPUT)
        return RESUME
    area = scratch_area(vcpu, request, length)
    if area is None:
        return RESUME
    return _mmio_part(vcpu, area[:length], gpa, write=write)


def _mmio_part(vcpu: Vcpu, left: memoryview, gpa: int, *, write: bool) -> bool:
    if not left:
        return RESUME
    length = min(len(left), MMIO_MAX)
    mmio = vcpu.run.mmio
    vcpu.run.exit_reason = uapi.KVM_EXIT_MMIO
    mmio.phys_addr, mmio.len, mmio.is_write = gpa, length, int(write)
    for number in range(8):
        mmio.data[number] = left[number] if write and number < length else 0

    def complete(vcpu: Vcpu) -> bool:
        if not write:
            left[:length] = bytes(vcpu.run.mmio.data[:length])
        return _mmio_part(vcpu, left[length:], gpa + length, write=write)

    vcpu.state.completion = complete
    return LEAVE
