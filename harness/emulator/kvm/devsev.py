# SPDX-License-Identifier: GPL-2.0-only
"""/dev/sev: commands to the platform (drivers/crypto/ccp/sev-dev.c, Linux 6.12, and v12)."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.files import File
from harness.emulator.memory import PAGE_SIZE
from harness.uapi import sev as abi

if TYPE_CHECKING:
    from harness.emulator.kvm.device import Kvm
    from harness.emulator.kvm.files import Call
    from harness.emulator.kvm.sched import Steps

S = TypeVar("S", bound=ctypes.Structure)


class SevDevice(File):
    """An open /dev/sev; commands that change the platform need it open for writing."""

    def __init__(self, kvm: Kvm, writable: bool = True) -> None:
        self.ccp = kvm.ccp
        self._machine = kvm.machine
        self._interface = kvm.interface
        self._writable = writable

    def ioctl(self, call: Call, request: int, arg: int) -> int | Steps:
        """sev_ioctl: the structure comes back with the firmware's status, unless it was refused."""
        if not self.ccp.present:
            raise KvmError(errno.ENODEV)
        if request != abi.SEV_ISSUE_CMD:
            raise KvmError(errno.EINVAL)
        issue = self._read(call, abi.sev_issue_cmd, arg)
        handler = self._handlers().get(issue.cmd)
        if handler is None:
            raise KvmError(errno.EINVAL)
        try:
            handler(call, issue)
        finally:
            call.write(arg, bytes(issue))
        return 0

    def _handlers(self) -> dict[int, Callable[[Call, abi.sev_issue_cmd], None]]:
        handlers: dict[int, Callable[[Call, abi.sev_issue_cmd], None]] = {
            abi.SEV_PLATFORM_STATUS: self._platform_status,
            abi.SEV_PDH_CERT_EXPORT: self._pdh_cert_export,
            abi.SEV_GET_ID: self._get_id,
            abi.SEV_GET_ID2: self._get_id2,
            abi.SNP_PLATFORM_STATUS: self._snp_platform_status,
            abi.SNP_COMMIT: self._snp_commit,
            abi.SNP_SET_CONFIG: self._snp_set_config,
            abi.SNP_VLEK_LOAD: self._snp_vlek_load,
        }
        if self._interface.pause_attestation:
            handlers[abi.SNP_PAUSE_ATTESTATION] = self._pause_attestation
            handlers[abi.SNP_RESUME_ATTESTATION] = self._resume_attestation
        return handlers

    @staticmethod
    def _read(call: Call, kind: type[S], address: int) -> S:
        return kind.from_buffer_copy(call.read(address, ctypes.sizeof(kind)))

    def _do(self, issue: abi.sev_issue_cmd, cmd: int, data: ctypes.Structure | None = None) -> None:
        issue.error = self.ccp.do_cmd(cmd, data)
        if issue.error:
            raise KvmError(errno.EIO)

    def _need(self, *, writable: bool = False, snp: bool = False) -> None:
        """The checks that the commands share, in the kernel's order."""
        if writable and not self._writable:
            raise KvmError(errno.EPERM)
        if snp and not self.ccp.snp_initialized:
            raise KvmError(errno.ENODEV)

    def _buffer(self, length: int) -> int:
        """Zeroed memory whose physical address the firmware gets."""
        try:
            return self._machine.frames.alloc(-(-length // PAGE_SIZE) * PAGE_SIZE, PAGE_SIZE)
        except MemoryError:
            raise KvmError(errno.ENOMEM) from None

    def _free(self, pa: int, length: int) -> None:
        self._machine.frames.free(pa, -(-length // PAGE_SIZE) * PAGE_SIZE)

    # -- SEV -------------------------------------------------------------------------------

    def _platform_status(self, call: Call, issue: abi.sev_issue_cmd) -> None:
        status = abi.sev_user_data_status()
        self._do(issue, abi.SEV_CMD_PLATFORM_STATUS, status)
        call.write(issue.data, bytes(status))

    def _get_id(self, call: Call, issue: abi.sev_issue_cmd) -> None:
        size = ctypes.sizeof(abi.sev_user_data_get_id)
        pa = self._buffer(size)
        data = abi.sev_data_get_id(address=pa, len=size)
        try:
            self._do(issue, abi.SEV_CMD_GET_ID, data)
            call.write(issue.data, self._machine.memory.read(pa, min(data.len, size)))
        finally:
            self._free(pa, size)

    def _get_id2(self, call: Call, issue: abi.sev_issue_cmd) -> None:
        """Without a buffer, or with one too short, only the length comes back."""
        wanted = self._read(call, abi.sev_user_data_get_id2, issue.data)
        length = wanted.length if wanted.address else 0
        pa = self._buffer(length) if length else 0
        data = abi.sev_data_get_id(address=pa, len=length)
        try:
            try:
                self._do(issue, abi.SEV_CMD_GET_ID, data)
            finally:
                wanted.length = data.len
                call.write(issue.data, bytes(wanted))
            if pa:
                call.write(wanted.address, self._machine.memory.read(pa, min(data.len, length)))
        finally:
            if pa:
                self._free(pa, length)

    def _pdh_cert_export(self, call: Call, issue: abi.sev_issue_cmd) -> None:
        wanted = self._read(call, abi.sev_user_data_pdh_cert_export, issue.data)
        data = abi.sev_data_pdh_cert_export()
        sizes = (wanted.pdh_cert_len, wanted.cert_chain_len)
        addresses = (wanted.pdh_cert_address, wanted.cert_chain_address)
        buffers: list[tuple[int, int]] = []
        try:
            if all(sizes) and all(addresses):
                if max(sizes) > abi.SEV_FW_BLOB_MAX_SIZE:
                    raise KvmError(errno.EFAULT)
                buffers = [(self._buffer(size), size) for size in sizes]
                data.pdh_cert_address, data.cert_chain_address = (pa for pa, _ in buffers)
                data.pdh_cert_len, data.cert_chain_len = sizes
            if self.ccp.state != abi.SEV_STATE_INIT:
                self._need(writable=True)
                issue.error = self.ccp.platform_init()
                if issue.error:
                    raise KvmError(errno.EIO)
            try:
                self._do(issue, abi.SEV_CMD_PDH_CERT_EXPORT, data)
            finally:
                wanted.pdh_cert_len, wanted.cert_chain_len = data.pdh_cert_len, data.cert_chain_len
                call.write(issue.data, bytes(wanted))
            for (pa, size), address in zip(buffers, addresses, strict=False):
                call.write(address, self._machine.memory.read(pa, size))
        finally:
            for pa, size in buffers:
                self._free(pa, size)

    # -- SNP -------------------------------------------------------------------------------

    def _snp_platform_status(self, call: Call, issue: abi.sev_issue_cmd) -> None:
        if not issue.data:
            raise KvmError(errno.EINVAL)
        ccp = self.ccp
        page = ccp.alloc_firmware_page()
        if page is None:
            raise KvmError(errno.EFAULT)
        error = ccp.do_cmd(abi.SEV_CMD_SNP_PLATFORM_STATUS, abi.sev_data_snp_addr(address=page))
        issue.error = error
        if ccp.snp_initialized and not ccp.reclaim_pages(page, 1):
            raise KvmError(errno.EFAULT)
        try:
            if error:
                raise KvmError(errno.EIO)
            size = ctypes.sizeof(abi.sev_user_data_snp_status)
            call.write(issue.data, self._machine.memory.read(page, size))
        finally:
            self._free(page, PAGE_SIZE)

    def _snp_commit(self, call: Call, issue: abi.sev_issue_cmd) -> None:
        size = ctypes.sizeof(abi.sev_data_snp_commit)
        self._do(issue, abi.SEV_CMD_SNP_COMMIT, abi.sev_data_snp_commit(len=size))

    def _snp_set_config(self, call: Call, issue: abi.sev_issue_cmd) -> None:
        if not issue.data:
            raise KvmError(errno.EINVAL)
        self._need(writable=True, snp=True)
        config = self._read(call, abi.sev_user_data_snp_config, issue.data)
        self._do(issue, abi.SEV_CMD_SNP_CONFIG, config)

    def _snp_vlek_load(self, call: Call, issue: abi.sev_issue_cmd) -> None:
        if not issue.data:
            raise KvmError(errno.EINVAL)
        self._need(writable=True, snp=True)
        load = self._read(call, abi.sev_user_data_snp_vlek_load, issue.data)
        if load.len != ctypes.sizeof(load) or load.vlek_wrapped_version:
            raise KvmError(errno.EINVAL)
        if not load.vlek_wrapped_address:
            raise KvmError(errno.EINVAL)
        size = ctypes.sizeof(abi.sev_user_data_snp_wrapped_vlek_hashstick)
        blob = call.read(load.vlek_wrapped_address, size)
        pa = self._buffer(size)
        try:
            self._machine.memory.write(pa, blob)
            load.vlek_wrapped_address = pa
            self._do(issue, abi.SEV_CMD_SNP_VLEK_LOAD, load)
        finally:
            self._free(pa, size)

    def _pause_attestation(self, call: Call, issue: abi.sev_issue_cmd) -> None:
        self._transaction(call, issue, self.ccp.attestation.pause)

    def _resume_attestation(self, call: Call, issue: abi.sev_issue_cmd) -> None:
        self._transaction(call, issue, self.ccp.attestation.resume)

    def _transaction(self, call: Call, issue: abi.sev_issue_cmd, step: Callable[[], int]) -> None:
        if not self.ccp.snp_initialized or not issue.data:
            raise KvmError(errno.EINVAL)
        self._need(writable=True)
        transaction = abi.sev_user_data_snp_pause_attestation(id=step())
        call.write(issue.data, bytes(transaction))
