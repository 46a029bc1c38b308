# SPDX-License-Identifier: GPL-2.0-only
"""A vCPU: its file, its registers while they are not protected, its run page."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, TypeVar

from harness.emulator.kvm import ap, run
from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.files import Call, File, IoctlTable
from harness.emulator.kvm.mmu import MemoryFault, Resolution
from harness.emulator.kvm.sched import Mutex, Steps
from harness.emulator.memory import PAGE_SIZE
from harness.uapi import kvm as uapi
from harness.uapi.sev import PFERR_GUEST_ENC_MASK

if TYPE_CHECKING:
    from harness.emulator.kvm.vm import Vm

RUN_PAGES = 3
"""kvm_run, port I/O data, coalesced MMIO ring: what KVM_GET_VCPU_MMAP_SIZE reports on x86."""

RESET_VECTOR = 0xFFF0

X87_CONTROL, MXCSR = 0x37F, 0x1F80
"""A new vCPU's FPU state is that of user space (fpu_alloc_guest_fpstate, 6.12), not of reset."""

VCPU_IOCTLS = IoctlTable("vcpu")

S = TypeVar("S", bound=ctypes.Structure)


def get_struct(call: Call, kind: type[S], address: int) -> S:
    """copy_from_user of one structure."""
    return kind.from_buffer_copy(call.read(address, ctypes.sizeof(kind)))


class Vcpu(File):
    """One virtual processor."""

    def __init__(self, vm: Vm, id: int, index: int) -> None:
        self.vm = vm
        self.id = id
        self.index = index
        self.mutex = Mutex(f"vcpu {id}")
        self.regs = uapi.kvm_regs(rip=RESET_VECTOR, rflags=2)
        self.sregs = _reset_sregs()
        self.fpu = uapi.kvm_fpu(fcw=X87_CONTROL, mxcsr=MXCSR)
        self.cpuid: list[uapi.kvm_cpuid_entry2] = []
        self.msrs: dict[int, int] = {}
        self.mp_state = (
            uapi.KVM_MP_STATE_RUNNABLE
            if id == vm.bsp_id or not vm.lapic
            else uapi.KVM_MP_STATE_UNINITIALIZED
        )
        self.guest_state_protected = False
        self.run_pa = vm.machine.frames.alloc(RUN_PAGES * PAGE_SIZE, PAGE_SIZE)
        self.run = uapi.kvm_run.from_buffer(
            vm.machine.memory.view(self.run_pa, ctypes.sizeof(uapi.kvm_run))
        )
        self.state = run.VcpuState()
        """What KVM_RUN keeps between calls (GHCB, VMSA, AP creation, pending completion)."""
        vm.get()

    @property
    def apic_id(self) -> int:
        """The x2APIC id is the vCPU id."""
        return self.id

    def ioctl(self, call: Call, request: int, arg: int) -> int | Steps:
        """kvm_vcpu_ioctl: everything is serialised by the vCPU's mutex."""
        if self.vm.dead:
            raise KvmError(errno.EIO)
        return self._locked(call, request, arg)

    def _locked(self, call: Call, request: int, arg: int) -> Steps:
        yield from self.mutex.lock(call.task)
        try:
            result = VCPU_IOCTLS.handle(self, call, request, arg)
            if not isinstance(result, int):
                result = yield from result
            return result
        finally:
            self.mutex.unlock()

    def mmap(self, length: int, offset: int) -> int:
        """Map the run page and what follows it."""
        if offset or length > RUN_PAGES * PAGE_SIZE:
            raise KvmError(errno.EINVAL)
        return self.run_pa

    def release(self) -> None:
        """The descriptor is gone; the vCPU lives as long as its VM."""
        self.vm.put()

    def destroy(self) -> None:
        """kvm_arch_vcpu_destroy."""
        run.destroy(self)
        del self.run
        self.vm.machine.frames.free(self.run_pa, RUN_PAGES * PAGE_SIZE)

    def check_unprotected(self) -> None:
        """Registers of a protected guest can be neither read nor written."""
        if self.vm.has_protected_state and self.guest_state_protected:
            raise KvmError(errno.EINVAL)

    def check_fpu(self) -> None:
        """As registers, but only SEV-ES marks the FPU state confidential, SNP does not (6.12)."""
        if not self.vm.sev_snp:
            self.check_unprotected()


def _reset_sregs() -> uapi.kvm_sregs:
    """Architectural state after reset (AMD APM vol. 2, table 14-1)."""
    sregs = uapi.kvm_sregs()
    for name in ("ds", "es", "fs", "gs", "ss"):
        segment = getattr(sregs, name)
        segment.limit, segment.type, segment.present, segment.s = 0xFFFF, 3, 1, 1
    sregs.cs.base, sregs.cs.limit, sregs.cs.selector = 0xFFFF0000, 0xFFFF, 0xF000
    sregs.cs.type, sregs.cs.present, sregs.cs.s = 0xB, 1, 1
    sregs.tr.limit, sregs.tr.type, sregs.tr.present = 0xFFFF, 0xB, 1
    sregs.ldt.limit, sregs.ldt.type, sregs.ldt.present = 0xFFFF, 2, 1
    sregs.gdt.limit = sregs.idt.limit = 0xFFFF
    sregs.cr0 = 0x60000010
    return sregs


@VCPU_IOCTLS(uapi.KVM_RUN)
def _run(vcpu: Vcpu, call: Call, arg: int) -> int | Steps:
    if arg:
        raise KvmError(errno.EINVAL)
    return run.run(vcpu, call)


@VCPU_IOCTLS(uapi.KVM_GET_REGS)
def _get_regs(vcpu: Vcpu, call: Call, arg: int) -> int:
    vcpu.check_unprotected()
    call.write(arg, bytes(vcpu.regs))
    return 0


@VCPU_IOCTLS(uapi.KVM_SET_REGS)
def _set_regs(vcpu: Vcpu, call: Call, arg: int) -> int:
    regs = get_struct(call, uapi.kvm_regs, arg)
    vcpu.check_unprotected()
    vcpu.regs = regs
    vcpu.regs.rflags |= 2
    vcpu.state.registers_changed = True
    return 0


@VCPU_IOCTLS(uapi.KVM_GET_SREGS)
def _get_sregs(vcpu: Vcpu, call: Call, arg: int) -> int:
    vcpu.check_unprotected()
    call.write(arg, bytes(vcpu.sregs))
    return 0


@VCPU_IOCTLS(uapi.KVM_SET_SREGS)
def _set_sregs(vcpu: Vcpu, call: Call, arg: int) -> int:
    sregs = get_struct(call, uapi.kvm_sregs, arg)
    vcpu.check_unprotected()
    paging, pae = sregs.cr0 >> 31 & 1, sregs.cr4 >> 5 & 1
    lme, lma = sregs.efer >> 8 & 1, sregs.efer >> 10 & 1
    if lme and paging:
        # kvm_is_valid_sregs: long mode needs PAE and LMA.
        if not pae or not lma:
            raise KvmError(errno.EINVAL)
    elif lma or sregs.cs.l:
        raise KvmError(errno.EINVAL)
    vcpu.sregs = sregs
    vcpu.state.registers_changed = True
    return 0


@VCPU_IOCTLS(uapi.KVM_GET_FPU)
def _get_fpu(vcpu: Vcpu, call: Call, arg: int) -> int:
    vcpu.check_fpu()
    call.write(arg, bytes(vcpu.fpu))
    return 0


@VCPU_IOCTLS(uapi.KVM_SET_FPU)
def _set_fpu(vcpu: Vcpu, call: Call, arg: int) -> int:
    vcpu.check_fpu()
    vcpu.fpu = get_struct(call, uapi.kvm_fpu, arg)
    return 0


@VCPU_IOCTLS(uapi.KVM_GET_MP_STATE)
def _get_mp_state(vcpu: Vcpu, call: Call, arg: int) -> int:
    """kvm_arch_vcpu_ioctl_get_mpstate: a pending INIT or SIPI comes first."""
    if vcpu.vm.lapic:
        ap.accept_init(vcpu)
    call.write(arg, bytes(uapi.kvm_mp_state(mp_state=vcpu.mp_state)))
    return 0


@VCPU_IOCTLS(uapi.KVM_SET_MP_STATE)
def _set_mp_state(vcpu: Vcpu, call: Call, arg: int) -> int:
    """kvm_arch_vcpu_ioctl_set_mpstate: all but RUNNABLE need a local APIC in the kernel."""
    state = get_struct(call, uapi.kvm_mp_state, arg).mp_state
    with_apic = {
        uapi.KVM_MP_STATE_UNINITIALIZED,
        uapi.KVM_MP_STATE_HALTED,
        uapi.KVM_MP_STATE_AP_RESET_HOLD,
        uapi.KVM_MP_STATE_INIT_RECEIVED,
        uapi.KVM_MP_STATE_SIPI_RECEIVED,
    }
    if state != uapi.KVM_MP_STATE_RUNNABLE and not (state in with_apic and vcpu.vm.lapic):
        raise KvmError(errno.EINVAL)
    if state == uapi.KVM_MP_STATE_SIPI_RECEIVED:
        vcpu.state.sipi_pending = True
        state = uapi.KVM_MP_STATE_INIT_RECEIVED
    vcpu.mp_state = state
    return 0


@VCPU_IOCTLS(uapi.KVM_SET_CPUID2)
def _set_cpuid2(vcpu: Vcpu, call: Call, arg: int) -> int:
    count = get_struct(call, uapi.kvm_cpuid2, arg).nent
    if count > uapi.KVM_MAX_CPUID_ENTRIES:
        raise KvmError(errno.E2BIG)
    size = ctypes.sizeof(uapi.kvm_cpuid_entry2)
    data = call.read(arg + 8, count * size)
    vcpu.cpuid = [uapi.kvm_cpuid_entry2.from_buffer_copy(data, i * size) for i in range(count)]
    return 0


@VCPU_IOCTLS(uapi.KVM_GET_MSRS)
def _get_msrs(vcpu: Vcpu, call: Call, arg: int) -> int:
    if vcpu.vm.has_protected_state and vcpu.guest_state_protected:
        raise KvmError(errno.EINVAL)
    count = int.from_bytes(call.read(arg, 4), "little")
    for i in range(count):
        at = arg + 8 + i * 16
        index = int.from_bytes(call.read(at, 4), "little")
        if index not in vcpu.msrs:
            return i
        call.write(at + 8, vcpu.msrs[index].to_bytes(8, "little"))
    return count


@VCPU_IOCTLS(uapi.KVM_PRE_FAULT_MEMORY)
def _pre_fault(vcpu: Vcpu, call: Call, arg: int) -> int:
    """kvm_vcpu_pre_fault_memory: map a range as a read fault would; progress is written back."""
    vm = vcpu.vm
    wanted = get_struct(call, uapi.kvm_pre_fault_memory, arg)
    if wanted.flags or wanted.gpa % PAGE_SIZE or wanted.size % PAGE_SIZE:
        raise KvmError(errno.EINVAL)
    if wanted.size == 0 or wanted.gpa + wanted.size >= 1 << 64:
        raise KvmError(errno.EINVAL)
    done = 0
    failure = 0
    while done < wanted.size:
        gpa = wanted.gpa + done
        if not vm.pre_fault_allowed:
            failure = errno.EOPNOTSUPP
            break
        private = gpa >> 12 in vm.private
        try:
            resolution = vm.mmu.fault(gpa, PFERR_GUEST_ENC_MASK if private else 0)
        except MemoryFault as fault:
            failure = fault.errno
            break
        if resolution is Resolution.MMIO:
            failure = errno.ENOENT
            break
        done += PAGE_SIZE
    wanted.gpa += done
    wanted.size -= done
    call.write(arg, bytes(wanted))
    if failure and not done:
        raise KvmError(failure)
    return 0
