# SPDX-License-Identifier: GPL-2.0-only
"""A virtual machine: memory, vCPUs and the SNP launch."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.operations import Close, Ioctl, Munmap, Op, Read, Result, Write
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.vm.closing import Closing
from harness.vm.errors import KvmIoctlError, NotSupportedError, SevError
from harness.vm.gmem import GuestMemfd
from harness.vm.results import Memory, SevResult
from harness.vm.system import System
from harness.vm.vcpu import Vcpu

THREADS = 64
"""Thread numbers that a VM has for its vCPUs."""

SCRATCH = 1 << 16
"""Bytes of target memory that hold the structures SEV commands point to, per thread."""

DEFAULT_POLICY = sevapi.SNP_POLICY_MASK_SMT | sevapi.SNP_POLICY_MASK_RSVD_MBO


@dataclass(frozen=True, slots=True)
class Slot:
    """A memory slot: guest range, shared view in the target's memory, guest_memfd."""

    id: int
    gpa: int
    size: int
    address: int
    gmem: GuestMemfd | None
    gmem_offset: int
    mapped: bool


class Vm(Closing):
    """One VM; a context that closes its vCPUs, its guest_memfds and itself."""

    next_threads = 0
    """The first thread number of the next VM."""

    def __init__(self, host: System, fd: int, type: int) -> None:
        self.host = host
        self.kernel = host.kernel
        self.interface = host.interface
        self.fd = fd
        self.type = type
        self.vcpus: list[Vcpu] = []
        self.gmems: list[GuestMemfd] = []
        self.slots: dict[int, Slot] = {}
        self.is_snp = type == uapi.KVM_X86_SNP_VM
        # Each VM gets a range of thread numbers of its own, so that several VMs run side by side.
        # Where numbers are few they come again; close() sees to it that the old owner is out.
        limit = host.kernel.thread_limit
        self.thread_base = Vm.next_threads % limit if limit else Vm.next_threads
        Vm.next_threads += THREADS
        self._scratch: dict[int, int] = {}
        self._staging: tuple[int, int] | None = None
        self._open = True

    # -- generic ---------------------------------------------------------------------------

    def ioctl(self, name: str, request: int, arg: int | bytes = 0) -> Result:
        """A VM ioctl that must succeed; `name` is for the error."""
        result = self.kernel.ioctl(self.fd, request, arg)
        if not result.ok:
            raise KvmIoctlError(name, result.errno)
        return result

    def enable_cap(self, cap: int, arg: int = 0) -> None:
        """KVM_ENABLE_CAP."""
        request = uapi.kvm_enable_cap(cap=cap)
        request.args[0] = arg
        self.ioctl(f"KVM_ENABLE_CAP({cap})", uapi.KVM_ENABLE_CAP, bytes(request))

    def extension(self, cap: int) -> int:
        """KVM_CHECK_EXTENSION of this VM."""
        return self.ioctl("KVM_CHECK_EXTENSION", uapi.KVM_CHECK_EXTENSION, cap).value

    def create_vcpu(self, id: int | None = None) -> Vcpu:
        """KVM_CREATE_VCPU; without an id the next one."""
        number = len(self.vcpus) if id is None else id
        fd = self.ioctl(f"KVM_CREATE_VCPU({number})", uapi.KVM_CREATE_VCPU, number).value
        vcpu = Vcpu(self, fd, number)
        self.vcpus.append(vcpu)
        return vcpu

    # -- memory ----------------------------------------------------------------------------

    def create_gmem(self, size: int, flags: int = 0) -> GuestMemfd:
        """KVM_CREATE_GUEST_MEMFD; the VM closes it at its end."""
        request = uapi.kvm_create_guest_memfd(size=size, flags=flags)
        result = self.ioctl("KVM_CREATE_GUEST_MEMFD", uapi.KVM_CREATE_GUEST_MEMFD, bytes(request))
        gmem = GuestMemfd(self.kernel, result.value, size)
        self.gmems.append(gmem)
        return gmem

    def add_slot(
        self,
        slot: int,
        gpa: int,
        size: int,
        *,
        gmem: GuestMemfd | None = None,
        gmem_offset: int = 0,
        flags: int = 0,
        address: int | None = None,
    ) -> Slot:
        """KVM_SET_USER_MEMORY_REGION2 over fresh shared memory (or what is mapped at `address`)."""
        mapped = address is None
        where = self.kernel.mmap(size) if address is None else address
        region = uapi.kvm_userspace_memory_region2(
            slot=slot,
            flags=flags | (uapi.KVM_MEM_GUEST_MEMFD if gmem else 0),
            guest_phys_addr=gpa,
            memory_size=size,
            userspace_addr=where,
            guest_memfd_offset=gmem_offset,
            guest_memfd=gmem.fd if gmem else 0,
        )
        try:
            self.set_region(region)
        except KvmIoctlError:
            if mapped:
                self.kernel.munmap(where, size)
            raise
        made = Slot(slot, gpa, size, where, gmem, gmem_offset, mapped)
        self.slots[slot] = made
        return made

    def set_region(self, region: uapi.kvm_userspace_memory_region2) -> None:
        """KVM_SET_USER_MEMORY_REGION2 as given."""
        self.ioctl("KVM_SET_USER_MEMORY_REGION2", uapi.KVM_SET_USER_MEMORY_REGION2, bytes(region))

    def delete_slot(self, slot: int) -> None:
        """Delete a slot and unmap its shared memory."""
        old = self.slots.pop(slot)
        self.set_region(uapi.kvm_userspace_memory_region2(slot=slot))
        if old.mapped:
            self.kernel.munmap(old.address, old.size)

    def set_memory_attributes_raw(
        self, address: int, size: int, attributes: int, flags: int = 0
    ) -> Result:
        """KVM_SET_MEMORY_ATTRIBUTES as given; the result is not checked."""
        request = uapi.kvm_memory_attributes(
            address=address, size=size, attributes=attributes, flags=flags
        )
        return self.kernel.ioctl(self.fd, uapi.KVM_SET_MEMORY_ATTRIBUTES, bytes(request))

    def attributes_op(self, gpa: int, size: int, *, private: bool) -> Ioctl:
        """The operation that converts a range, for use in a batch."""
        request = uapi.kvm_memory_attributes(
            address=gpa,
            size=size,
            attributes=uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE if private else 0,
        )
        return Ioctl(self.fd, uapi.KVM_SET_MEMORY_ATTRIBUTES, bytes(request))

    def set_memory_attributes(self, gpa: int, size: int, *, private: bool) -> None:
        """Convert a range to private or to shared; bytes, page aligned."""
        result = self.kernel.call(self.attributes_op(gpa, size, private=private))
        if not result.ok:
            raise KvmIoctlError(
                f"KVM_SET_MEMORY_ATTRIBUTES({gpa:#x}, {size:#x}, private={private})", result.errno
            )

    def shared_address(self, gpa: int, length: int = 1) -> int:
        """Where the target's process sees the shared memory behind a guest address."""
        for slot in self.slots.values():
            if slot.gpa <= gpa and gpa + length <= slot.gpa + slot.size:
                return slot.address + gpa - slot.gpa
        raise ValueError(f"no slot holds [{gpa:#x}, {gpa + length:#x})")

    def read_gpa(self, gpa: int, length: int) -> bytes:
        """Read the shared memory behind a guest address."""
        data = self.kernel.read(self.shared_address(gpa, length), length)
        return Memory(data, f"shared memory at GPA {gpa:#x}")

    def write_gpa(self, gpa: int, data: bytes) -> None:
        """Write the shared memory behind a guest address."""
        self.kernel.write(self.shared_address(gpa, len(data)), data)

    def stage(self, data: bytes) -> int:
        """Put data where LAUNCH_UPDATE can take it from (page aligned); returns the address."""
        size = -(-max(len(data), 1) // 4096) * 4096
        if self._staging is None or self._staging[1] < size:
            if self._staging is not None:
                self.kernel.munmap(*self._staging)
            self._staging = (self.kernel.mmap(size), size)
        self.kernel.write(self._staging[0], data)
        return self._staging[0]

    def write_gpas(self, parts: Iterable[tuple[int, bytes]]) -> None:
        """Write the shared memory behind several guest addresses at once."""
        ops = [Write(self.shared_address(gpa, len(data)), data) for gpa, data in parts]
        self.kernel.run_all(ops)

    # -- SEV commands ----------------------------------------------------------------------

    def scratch(self, thread: int = 0) -> int:
        """Address of the memory for the structures of SEV commands of a thread."""
        if thread not in self._scratch:
            self._scratch[thread] = self.kernel.mmap(SCRATCH)
        return self._scratch[thread]

    def sev_ops(
        self, command: int, data: bytes, *, thread: int = 0, sev_fd: int | None = None
    ) -> list[Op]:
        """The operations of a SEV command: structure into memory, ioctl, structure back."""
        address = self.scratch(thread)
        fd = self.host.sev.fd if sev_fd is None else sev_fd
        request = sevapi.kvm_sev_cmd(
            id=command, data=address if data else 0, error=0, sev_fd=fd & 0xFFFFFFFF
        )
        ops: list[Op] = [Ioctl(self.fd, uapi.KVM_MEMORY_ENCRYPT_OP, bytes(request))]
        if data:
            ops = [Write(address, data), *ops, Read(address, len(data))]
        return ops

    def sev_result(self, results: list[Result], data: bytes, *, thread: int = 0) -> SevResult:
        """Interpret the results of `sev_ops`."""
        result = results[1] if data else results[0]
        command = sevapi.kvm_sev_cmd.from_buffer_copy(result.data)
        name = sevapi.COMMAND_NAMES.get(command.id, f"SEV command {command.id}")
        after = b""
        if data:
            after = (
                results[2].data
                if len(results) > 2
                else self.kernel.read(self.scratch(thread), len(data))
            )
        return SevResult.of(name, result.errno, command.error, after)

    def sev_call(
        self,
        command: int,
        struct: ctypes.Structure | bytes = b"",
        *,
        thread: int = 0,
        sev_fd: int | None = None,
    ) -> SevResult:
        """KVM_MEMORY_ENCRYPT_OP; a failure is a result."""
        data = bytes(struct)
        ops = self.sev_ops(command, data, thread=thread, sev_fd=sev_fd)
        return self.sev_result(self.kernel.batch(ops, thread=thread), data, thread=thread)

    def sev(self, name: str, command: int, struct: ctypes.Structure | bytes = b"") -> SevResult:
        """KVM_MEMORY_ENCRYPT_OP that must succeed; raises SevError."""
        result = self.sev_call(command, struct)
        if result.errno:
            raise SevError(name, result.errno, result.fw_error)
        return result

    def sev_init2(
        self, *, flags: int = 0, vmsa_features: int = 0, ghcb_version: int = 0
    ) -> SevResult:
        """KVM_SEV_INIT2."""
        struct = sevapi.kvm_sev_init(
            flags=flags, vmsa_features=vmsa_features, ghcb_version=ghcb_version
        )
        return self.sev("KVM_SEV_INIT2", sevapi.KVM_SEV_INIT2, struct)

    def enable_certificates(self) -> SevResult:
        """KVM_SEV_SNP_ENABLE_REQ_CERTS: ask userspace for certificates of extended requests."""
        command = sevapi.KVM_SEV_SNP_ENABLE_REQ_CERTS
        return self.sev("KVM_SEV_SNP_ENABLE_REQ_CERTS", command)

    def launch_start(self, *, policy: int = DEFAULT_POLICY, **fields: Any) -> SevResult:
        """KVM_SEV_SNP_LAUNCH_START; further fields by the interface's own names."""
        command = self.interface.launch_start
        struct = fill(command.struct, policy=policy, **fields)
        return self.sev("KVM_SEV_SNP_LAUNCH_START", command.id, struct)

    def update_struct(
        self, gpa: int, source: int, length: int, type: int, **fields: Any
    ) -> ctypes.Structure:
        """The interface's structure of LAUNCH_UPDATE."""
        struct = self.interface.launch_update.struct
        return fill(struct, gfn_start=gpa >> 12, uaddr=source, len=length, type=type, **fields)

    def launch_update(
        self,
        gpa: int,
        data: bytes | int,
        type: int = sevapi.KVM_SEV_SNP_PAGE_TYPE_NORMAL,
        *,
        length: int | None = None,
        **fields: Any,
    ) -> SevResult:
        """KVM_SEV_SNP_LAUNCH_UPDATE, repeated until all pages are in.

        data: the content, or the target's address of it (then with `length`).
        """
        if isinstance(data, bytes):
            source, size = self.stage(data), len(data) if length is None else length
        else:
            source, size = data, length or 4096
        struct = self.update_struct(gpa, source, size, type, **fields)
        command = self.interface.launch_update
        result = self.sev("KVM_SEV_SNP_LAUNCH_UPDATE", command.id, struct)
        while self.interface.update_writes_progress:
            left: Any = command.struct.from_buffer_copy(result.data)
            if not left.len:
                break
            result = self.sev("KVM_SEV_SNP_LAUNCH_UPDATE", command.id, left)
        return result

    def launch_finish(self, **fields: Any) -> SevResult:
        """KVM_SEV_SNP_LAUNCH_FINISH.

        id_block, id_auth: bytes, put into the target's memory; further fields by their names.
        """
        command = self.interface.launch_finish
        at = self.scratch() + SCRATCH // 2
        for name, offset in (("id_block", 0), ("id_auth", 0x1000)):
            data = fields.pop(name, None)
            if data is not None:
                self.kernel.write(at + offset, data)
                fields[f"{name}_uaddr"] = at + offset
        host_data = fields.pop("host_data", None)
        struct: Any = fill(command.struct, **fields)
        if host_data is not None:
            struct.host_data[:] = host_data
        return self.sev("KVM_SEV_SNP_LAUNCH_FINISH", command.id, struct)

    # -- end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close vCPUs, the VM, then its guest_memfds; may be called twice."""
        if not self._open:
            return
        self._forget()
        for vcpu in self.vcpus:
            self.kernel.interrupt(vcpu.thread)  # whoever is still in KVM_RUN leaves it
        mappings = [(slot.address, slot.size) for slot in self.slots.values() if slot.mapped]
        mappings += [(address, SCRATCH) for address in self._scratch.values()]
        if self._staging is not None:
            mappings.append(self._staging)
        self.kernel.run_all(
            [
                *(op for vcpu in self.vcpus for op in vcpu.closing_ops()),
                Close(self.fd),
                *(op for gmem in self.gmems for op in gmem.closing_ops()),
                *(Munmap(address, size) for address, size in mappings),
            ]
        )

    def close_file(self) -> None:
        """Close the VM's own descriptor alone: its vCPUs and guest_memfds are the caller's then."""
        self._forget()
        self.kernel.close(self.fd)

    def _forget(self) -> None:
        self._open = False
        if self in self.host.vms:
            self.host.vms.remove(self)


def fill(kind: type[ctypes.Structure], **fields: Any) -> ctypes.Structure:
    """Make a structure of a interface; NotSupportedError where it has no such field."""
    known = {field[0] for field in kind._fields_}
    for name in fields:
        if name not in known:
            raise NotSupportedError(f"{kind.__name__} of this interface has no field {name}")
    struct = kind()
    for name, value in fields.items():
        if isinstance(value, bytes | bytearray | list | tuple):
            getattr(struct, name)[: len(value)] = value
        else:
            setattr(struct, name, value)
    return struct
