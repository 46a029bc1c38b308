# SPDX-License-Identifier: GPL-2.0-only
"""Bad input never corrupts the emulated kernel: whatever userspace does, it gets an errno.

Random sequences of system calls, part sensible and part noise.  Nothing but results may come
back, the kernel must not panic, and when every file is closed no page is assigned, no ASID
taken and no VM left.
"""

from __future__ import annotations

import ctypes
import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.emulator.emulator import Emulator
from harness.emulator.machine import MachineConfig
from harness.operations import (
    Close,
    Fallocate,
    Ftruncate,
    Ioctl,
    Mmap,
    Munmap,
    Op,
    Open,
    Read,
    Result,
    TargetTimeoutError,
    Write,
)
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.uapi.interfaces import INTERFACES

REQUEST_NAMES = """
KVM_GET_API_VERSION KVM_CREATE_VM KVM_CHECK_EXTENSION KVM_GET_VCPU_MMAP_SIZE
KVM_GET_SUPPORTED_CPUID KVM_CREATE_VCPU KVM_SET_USER_MEMORY_REGION
KVM_SET_USER_MEMORY_REGION2 KVM_SET_MEMORY_ATTRIBUTES KVM_CREATE_GUEST_MEMFD
KVM_ENABLE_CAP KVM_CREATE_IRQCHIP KVM_SET_BOOT_CPU_ID KVM_MEMORY_ENCRYPT_OP KVM_RUN
KVM_GET_REGS KVM_SET_REGS KVM_GET_SREGS KVM_SET_SREGS KVM_GET_MP_STATE KVM_SET_MP_STATE
KVM_SET_CPUID2 KVM_PRE_FAULT_MEMORY KVM_GET_DEVICE_ATTR KVM_HAS_DEVICE_ATTR KVM_GET_FPU
KVM_SET_FPU KVM_GET_MSRS
"""
REQUESTS = (
    *(getattr(uapi, name) for name in REQUEST_NAMES.split()),
    sevapi.SEV_ISSUE_CMD,
    0xDEADBEEF,
)
GPAS = (0, 0x1000, 0x200000, 0x201000, 0x400000, 0xFFF, 1 << 40, (1 << 64) - 0x1000)
SIZES = (0, 0x1000, 0x2000, 0x200000, 0x400000, 0x123, 1 << 30, (1 << 64) - 0x1000)
SEV_COMMANDS = (*range(27), 100, 101, 102, 103, 0xFFFF)


class Fuzzer:
    """Makes random system calls that are near enough to right ones to get somewhere."""

    def __init__(self, kernel: Emulator, rng: random.Random) -> None:
        self.kernel = kernel
        self.rng = rng
        self.kvm = kernel.open("/dev/kvm")
        self.sev = kernel.open("/dev/sev")
        self.memory = kernel.mmap(0x800000)
        self.files = [self.kvm, self.sev, 77]
        self.vms: list[int] = []
        self.vcpus: list[int] = []
        self.gmems: list[int] = []

    def step(self) -> None:
        """One system call."""
        kind = self.rng.random()
        if kind < 0.35:
            self._do(self._sensible())
        elif kind < 0.6:
            self._do(self._sev_command())
        elif kind < 0.85:
            size = self.rng.choice((0, 4, 8, 16, 24, 64, 200, 4096))
            noise: int | bytes = self.rng.randbytes(size)
            if self.rng.random() < 0.2:
                noise = self.rng.choice((0, 4, self.memory, 1 << 63, (1 << 64) - 1))
            self._do(Ioctl(self.rng.choice(self.files), self.rng.choice(REQUESTS), noise))
        else:
            self._do(self._file_call())

    def _do(self, op: Op) -> None:
        ticket = self.kernel.start([op], thread=self.rng.randrange(3))
        try:
            result = self.kernel.wait(ticket, 5.0)[0]
        except TargetTimeoutError:
            # KVM_RUN of a vCPU that sleeps: a signal ends it.
            self.kernel.interrupt(ticket.thread)
            result = self.kernel.wait(ticket, 5.0)[0]
        assert isinstance(result, Result)
        assert 0 <= result.errno < 4096
        if result.ok and isinstance(op, Ioctl):
            made = {
                uapi.KVM_CREATE_VM: self.vms,
                uapi.KVM_CREATE_VCPU: self.vcpus,
                uapi.KVM_CREATE_GUEST_MEMFD: self.gmems,
            }.get(op.request)
            if made is not None:
                made.append(result.value)
                self.files.append(result.value)

    def _pick(self, files: list[int]) -> int:
        return self.rng.choice(files or self.files)

    def _sensible(self) -> Op:
        rng = self.rng
        choice = rng.randrange(8)
        if choice == 0:
            return Ioctl(self.kvm, uapi.KVM_CREATE_VM, rng.choice((4, 4, 4, 0, 1, 2, 3, 9)))
        vm = self._pick(self.vms)
        if choice == 1:
            return Ioctl(vm, uapi.KVM_CREATE_VCPU, rng.choice((0, 1, 2, 5000)))
        if choice == 2:
            memfd = uapi.kvm_create_guest_memfd(size=rng.choice(SIZES), flags=rng.choice((0, 0, 1)))
            return Ioctl(vm, uapi.KVM_CREATE_GUEST_MEMFD, bytes(memfd))
        if choice in (3, 4):
            region = uapi.kvm_userspace_memory_region2(
                slot=rng.choice((0, 1, 2, 40000)),
                flags=rng.choice((0, 4, 4, 4, 1, 2, 6)),
                guest_phys_addr=rng.choice(GPAS),
                memory_size=rng.choice(SIZES),
                userspace_addr=rng.choice((self.memory, self.memory + 0x1000, 0, 5)),
                guest_memfd_offset=rng.choice((0, 0, 0x1000, 0x200000, 3)),
                guest_memfd=self._pick(self.gmems),
            )
            return Ioctl(vm, uapi.KVM_SET_USER_MEMORY_REGION2, bytes(region))
        if choice == 5:
            attributes = uapi.kvm_memory_attributes(
                address=rng.choice(GPAS),
                size=rng.choice(SIZES),
                attributes=rng.choice((0, 8, 8, 8, 1)),
                flags=rng.choice((0, 0, 0, 1)),
            )
            return Ioctl(vm, uapi.KVM_SET_MEMORY_ATTRIBUTES, bytes(attributes))
        vcpu = self._pick(self.vcpus)
        if choice == 6:
            wanted = uapi.kvm_pre_fault_memory(gpa=rng.choice(GPAS), size=rng.choice(SIZES[:5]))
            return Ioctl(vcpu, uapi.KVM_PRE_FAULT_MEMORY, bytes(wanted))
        return Ioctl(vcpu, uapi.KVM_RUN, 0)

    def _sev_command(self) -> Op:
        rng = self.rng
        interface = self.kernel.interface
        commands = (interface.launch_start, interface.launch_update, interface.launch_finish)
        command = rng.choice(commands)
        number, data = command.id, bytearray(ctypes.sizeof(command.struct))
        if command is interface.launch_start:
            data[0:8] = rng.choice((0x30000, 0x30000, 0x10000, 0, 0x3FFFF)).to_bytes(8, "little")
        elif command is interface.launch_update:
            update = command.struct(
                gfn_start=rng.choice((0, 1, 0x200, 0x400)),
                uaddr=rng.choice((self.memory, self.memory, self.memory + 5, 0)),
                len=rng.choice((0x1000, 0x1000, 0x3000, 0x200000, 0, 7)),
                type=rng.choice((1, 1, 3, 4, 5, 6, 2, 9)),
            )
            data = bytearray(bytes(update))
        if rng.random() < 0.3:
            number, data = 22, bytearray(bytes(sevapi.kvm_sev_init()))
        elif rng.random() < 0.2:
            number, data = rng.choice(SEV_COMMANDS), bytearray(rng.randbytes(64))
        if rng.random() < 0.1 and data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        at = self.memory + 0x400000
        self.kernel.write(at, bytes(data))
        request = sevapi.kvm_sev_cmd(
            id=number, data=rng.choice((at, at, at, at, 0, 1)), sev_fd=rng.choice((self.sev, 99))
        )
        return Ioctl(self._pick(self.vms), uapi.KVM_MEMORY_ENCRYPT_OP, bytes(request))

    def _file_call(self) -> Op:
        rng = self.rng
        choice = rng.randrange(9)
        if choice <= 1:
            mode = rng.choice((3, 3, 1, 0, 2, 64))
            offset, length = rng.choice(GPAS[:6]), rng.choice(SIZES[:6])
            return Fallocate(self._pick(self.gmems), mode, offset, length)
        if choice == 2:
            return Ftruncate(self._pick(self.gmems), rng.choice(SIZES[:6]))
        if choice == 3:
            return Mmap(rng.choice((0, 0x1000, 0x3000, 0x100000)), fd=rng.choice(self.files))
        if choice == 4:
            return Munmap(rng.choice((0, self.memory + 0x1000)), 0x1000)
        if choice == 5:
            return Read(rng.choice((0, self.memory, 1 << 63)), rng.choice((0, 8, 1 << 20)))
        if choice == 6:
            return Write(self.memory + rng.randrange(0x400000), rng.randbytes(64))
        if choice == 7:
            return Open(rng.choice(("/dev/kvm", "/dev/sev", "/dev/null", "")))
        file = rng.choice(self.files)
        return Close(file if file not in (self.kvm, self.sev) else 78)


@pytest.mark.parametrize("name", INTERFACES)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32), steps=st.integers(20, 160))
@example(seed=755697, steps=122)  # a plain guest that pages in 32-bit mode
def test_random_system_calls_leave_nothing_behind(name: str, seed: int, steps: int) -> None:
    """Random system calls end in results, and closing everything leaves the RMP clean."""
    kernel = Emulator(name, MachineConfig(seed=seed or None, memory=4 << 30))
    try:
        before = kernel.inspector.assigned_pages() if kernel.inspector else 0
        fuzzer = Fuzzer(kernel, random.Random(seed))
        for _ in range(steps):
            fuzzer.step()
        assert kernel.machine.dead is None
        kernel.process.files.close_all()
        assert kernel.inspector is not None
        counters = kernel.inspector.counters()
        assert counters["vms"] == 0
        assert counters["asids"] == 0
        assert counters["leaked_pages"] == 0
        assert kernel.inspector.assigned_pages() == before
    finally:
        kernel.shutdown()
