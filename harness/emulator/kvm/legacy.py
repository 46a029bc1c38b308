# SPDX-License-Identifier: GPL-2.0-only
"""Commands of plain SEV and SEV-ES guests: KVM's checks, then the firmware's word (6.12).

The modelled firmware launches SNP guests only, so past KVM's checks these commands end with
its status.  What matters here is who is refused, and by whom.
"""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from harness.emulator.kvm import snp
from harness.emulator.kvm.errors import KvmError
from harness.uapi import sev as abi

if TYPE_CHECKING:
    from harness.emulator.kvm.files import Call
    from harness.emulator.kvm.vm import Vm


class Command:
    """One command: the structure that userspace passes, and the firmware's command for it."""

    def __init__(
        self,
        firmware: int,
        buffer: type[ctypes.Structure],
        params: type[ctypes.Structure] | None = None,
        *,
        own_fd: bool = False,
        es: bool = False,
    ) -> None:
        self._firmware = firmware
        self._buffer = buffer
        self._params = params
        self._own_fd = own_fd
        self._es = es

    def __call__(self, vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
        """Run it: ENOTTY for another kind of VM, EFAULT for bad memory, EIO from the firmware."""
        sev = vm.sev
        if not (sev.es_active if self._es else sev.active):
            raise KvmError(errno.ENOTTY)
        if self._params is not None:
            snp.from_user(call, self._params, cmd.data)
        fd = cmd.sev_fd if self._own_fd else sev.fd
        snp.issue(call, fd, self._firmware, self._buffer(), cmd)
        return 0


HANDLERS: dict[int, Command] = {
    abi.KVM_SEV_LAUNCH_START: Command(
        abi.SEV_CMD_LAUNCH_START, abi.sev_data_launch_start, abi.kvm_sev_launch_start, own_fd=True
    ),
    abi.KVM_SEV_LAUNCH_UPDATE_DATA: Command(
        abi.SEV_CMD_LAUNCH_UPDATE_DATA,
        abi.sev_data_launch_update_data,
        abi.kvm_sev_launch_update_data,
    ),
    abi.KVM_SEV_LAUNCH_UPDATE_VMSA: Command(
        abi.SEV_CMD_LAUNCH_UPDATE_VMSA, abi.sev_data_launch_update_vmsa, es=True
    ),
    abi.KVM_SEV_LAUNCH_SECRET: Command(
        abi.SEV_CMD_LAUNCH_UPDATE_SECRET, abi.sev_data_launch_secret, abi.kvm_sev_launch_secret
    ),
    abi.KVM_SEV_LAUNCH_MEASURE: Command(
        abi.SEV_CMD_LAUNCH_MEASURE, abi.sev_data_launch_measure, abi.kvm_sev_launch_measure
    ),
    abi.KVM_SEV_LAUNCH_FINISH: Command(abi.SEV_CMD_LAUNCH_FINISH, abi.sev_data_launch_finish),
    abi.KVM_SEV_GUEST_STATUS: Command(abi.SEV_CMD_GUEST_STATUS, abi.sev_data_guest_status),
    abi.KVM_SEV_DBG_DECRYPT: Command(abi.SEV_CMD_DBG_DECRYPT, abi.sev_data_dbg, abi.kvm_sev_dbg),
    abi.KVM_SEV_DBG_ENCRYPT: Command(abi.SEV_CMD_DBG_ENCRYPT, abi.sev_data_dbg, abi.kvm_sev_dbg),
}
"""Handlers by command; the rest of them (migration, SEV's own attestation) is EINVAL here."""
