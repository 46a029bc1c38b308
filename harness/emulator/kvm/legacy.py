# SPDX-License-Identifier: GPL-2.0-only
"""Commands of plain SEV and SEV-ES guests (arch/x86/kvm/svm/sev.c, Linux 6.12).

Guests are launched, measured and debugged by the modelled firmware; they are not run, and not
migrated by command (EINVAL).  User memory is contiguous here within one mapping.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.emulator.kvm import snp, vmsa
from harness.emulator.kvm.errors import KvmError
from harness.emulator.memory import PAGE_SIZE
from harness.uapi import sev as abi

if TYPE_CHECKING:
    from harness.emulator.kvm.files import Call
    from harness.emulator.kvm.vm import Vm

BLOCK = 16
"""What the firmware debugs is aligned to this, and so is what it launches."""

Handler = Callable[["Vm", "Call", abi.kvm_sev_cmd], int]


def unbind(vm: Vm) -> None:
    """sev_unbind_asid: nothing can be done about a firmware that refuses."""
    handle, vm.sev.handle = vm.sev.handle, 0
    if handle:
        ccp = vm.kvm.ccp
        ccp.do_cmd(abi.SEV_CMD_DEACTIVATE, abi.sev_data_deactivate(handle=handle))
        ccp.do_cmd(abi.SEV_CMD_DECOMMISSION, abi.sev_data_decommission(handle=handle))


# -- buffers -----------------------------------------------------------------------------------


class Blobs:
    """Copies of user memory, and buffers for the firmware's answers (kzalloc)."""

    def __init__(self, vm: Vm, call: Call) -> None:
        self._vm, self._call = vm, call
        self._made: list[tuple[int, int]] = []

    def empty(self, length: int) -> int:
        """Zeroed memory; its physical address."""
        size = -(-length // PAGE_SIZE) * PAGE_SIZE
        try:
            pa = self._vm.machine.frames.alloc(size, PAGE_SIZE)
        except MemoryError:
            raise KvmError(errno.ENOMEM) from None
        self._made.append((pa, size))
        self._vm.machine.memory.zero(pa, size)
        return pa

    def copy(self, address: int, length: int) -> int:
        """psp_copy_user_blob."""
        if not address or not 0 < length <= abi.SEV_FW_BLOB_MAX_SIZE:
            raise KvmError(errno.EINVAL)
        content = self._call.read(address, length)
        pa = self.empty(length)
        self._vm.machine.memory.write(pa, content)
        return pa

    def free(self) -> None:
        """Give all of them back (kfree)."""
        for pa, size in self._made:
            self._vm.machine.frames.free(pa, size)


@contextmanager
def _blobs(vm: Vm, call: Call) -> Iterator[Blobs]:
    made = Blobs(vm, call)
    try:
        yield made
    finally:
        made.free()


def _pin(call: Call, address: int, length: int) -> int:
    """sev_pin_memory: the physical address; ENOMEM for what is not mapped."""
    if not length or address + length >= 1 << 64:
        raise KvmError(errno.EINVAL)
    try:
        return call.process.memory.translate(address, length)
    except KvmError:
        raise KvmError(errno.ENOMEM) from None


# -- launch ------------------------------------------------------------------------------------


def _start(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
    """sev_launch_start: a context in the firmware, and the ASID bound to it."""
    params = snp.from_user(call, abi.kvm_sev_launch_start, cmd.data)
    start = abi.sev_data_launch_start(handle=params.handle, policy=params.policy)
    with _blobs(vm, call) as blobs:
        if params.dh_uaddr:
            start.dh_cert_address = blobs.copy(params.dh_uaddr, params.dh_len)
            start.dh_cert_len = params.dh_len
        if params.session_uaddr:
            start.session_address = blobs.copy(params.session_uaddr, params.session_len)
            start.session_len = params.session_len
        snp.issue(call, cmd.sev_fd, abi.SEV_CMD_LAUNCH_START, start, cmd)
    handle, ccp = int(start.handle), vm.kvm.ccp
    activate = abi.sev_data_activate(handle=handle, asid=vm.sev.asid)
    cmd.error = ccp.do_cmd(abi.SEV_CMD_ACTIVATE, activate)
    if cmd.error:
        ccp.do_cmd(abi.SEV_CMD_DECOMMISSION, abi.sev_data_decommission(handle=handle))
        raise KvmError(errno.EIO)
    params.handle = handle
    vm.sev.handle, vm.sev.policy, vm.sev.fd = handle, params.policy, cmd.sev_fd
    call.write(cmd.data, bytes(params))
    return 0


def _update_data(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
    """sev_launch_update_data."""
    params = snp.from_user(call, abi.kvm_sev_launch_update_data, cmd.data)
    pa = _pin(call, params.uaddr, params.len)
    data = abi.sev_data_launch_update_data(handle=vm.sev.handle, address=pa, len=params.len)
    snp.issue(call, vm.sev.fd, abi.SEV_CMD_LAUNCH_UPDATE_DATA, data, cmd)
    return 0


def _update_vmsa(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
    """sev_launch_update_vmsa: every vCPU in turn."""
    for vcpu in vm.vcpus:
        page = vmsa.build(vcpu)
        if vcpu.state.vmsa_pa is None:
            vcpu.state.vmsa_pa = snp.alloc_vmsa(vm)
        pa = vcpu.state.vmsa_pa
        vm.machine.memory.write(pa, page)
        data = abi.sev_data_launch_update_vmsa(handle=vm.sev.handle, address=pa, len=PAGE_SIZE)
        snp.issue(call, vm.sev.fd, abi.SEV_CMD_LAUNCH_UPDATE_VMSA, data, cmd)
        vcpu.guest_state_protected = True
    return 0


def _answer(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd, firmware: int, data: Any, params: Any) -> int:
    """What LAUNCH_MEASURE and ATTESTATION share: a length of 0 asks how long the answer is."""
    data.handle = vm.sev.handle
    with _blobs(vm, call) as blobs:
        if params.len and params.uaddr:
            if params.len > abi.SEV_FW_BLOB_MAX_SIZE:
                raise KvmError(errno.EINVAL)
            data.address, data.len = blobs.empty(params.len), params.len
        try:
            snp.issue(call, vm.sev.fd, firmware, data, cmd)
        finally:
            if not params.len:
                params.len = data.len
                call.write(cmd.data, bytes(params))
        if data.address:
            call.write(params.uaddr, vm.machine.memory.read(data.address, params.len))
    params.len = data.len
    call.write(cmd.data, bytes(params))
    return 0


def _measure(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
    """sev_launch_measure."""
    params = snp.from_user(call, abi.kvm_sev_launch_measure, cmd.data)
    data = abi.sev_data_launch_measure()
    return _answer(vm, call, cmd, abi.SEV_CMD_LAUNCH_MEASURE, data, params)


def _attestation(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
    """sev_get_attestation_report."""
    params = snp.from_user(call, abi.kvm_sev_attestation_report, cmd.data)
    data = abi.sev_data_attestation_report(mnonce=bytes(params.mnonce))
    return _answer(vm, call, cmd, abi.SEV_CMD_ATTESTATION_REPORT, data, params)


def _secret(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
    """sev_launch_secret."""
    params = snp.from_user(call, abi.kvm_sev_launch_secret, cmd.data)
    pa = _pin(call, params.guest_uaddr, params.guest_len)
    with _blobs(vm, call) as blobs:
        data = abi.sev_data_launch_secret(
            handle=vm.sev.handle,
            guest_address=pa,
            guest_len=params.guest_len,
            trans_address=blobs.copy(params.trans_uaddr, params.trans_len),
            trans_len=params.trans_len,
            hdr_address=blobs.copy(params.hdr_uaddr, params.hdr_len),
            hdr_len=params.hdr_len,
        )
        snp.issue(call, vm.sev.fd, abi.SEV_CMD_LAUNCH_UPDATE_SECRET, data, cmd)
    return 0


def _finish(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
    """sev_launch_finish."""
    data = abi.sev_data_launch_finish(handle=vm.sev.handle)
    snp.issue(call, vm.sev.fd, abi.SEV_CMD_LAUNCH_FINISH, data, cmd)
    return 0


def _status(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
    """sev_guest_status."""
    data = abi.sev_data_guest_status(handle=vm.sev.handle)
    snp.issue(call, vm.sev.fd, abi.SEV_CMD_GUEST_STATUS, data, cmd)
    answer = abi.kvm_sev_guest_status(handle=data.handle, policy=data.policy, state=data.state)
    call.write(cmd.data, bytes(answer))
    return 0


# -- debugging ---------------------------------------------------------------------------------


def _debug(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
    """sev_dbg_crypt: page by page; what is not in whole blocks goes through a bounce page."""
    params = snp.from_user(call, abi.kvm_sev_dbg, cmd.data)
    src, dst, left = params.src_uaddr, params.dst_uaddr, params.len
    if not src or not dst or not left or max(src, dst) + left >= 1 << 64:
        raise KvmError(errno.EINVAL)
    decrypt = cmd.id == abi.KVM_SEV_DBG_DECRYPT
    while left:
        length = min(left, PAGE_SIZE - src % PAGE_SIZE, PAGE_SIZE - dst % PAGE_SIZE)
        source, target = _pin(call, src, length), _pin(call, dst, length)
        if (source | target | length) % BLOCK == 0:
            firmware = abi.SEV_CMD_DBG_DECRYPT if decrypt else abi.SEV_CMD_DBG_ENCRYPT
            _crypt(vm, call, cmd, firmware, source, target, length)
        elif decrypt:
            call.write(dst, _through(vm, call, cmd, source, length))
        else:
            _through(vm, call, cmd, target, length, call.read(src, length))
        src, dst, left = src + length, dst + length, left - length
    return 0


def _crypt(
    vm: Vm, call: Call, cmd: abi.kvm_sev_cmd, firmware: int, source: int, target: int, length: int
) -> None:
    data = abi.sev_data_dbg(handle=vm.sev.handle, src_addr=source, dst_addr=target, len=length)
    snp.issue(call, vm.sev.fd, firmware, data, cmd)


def _through(
    vm: Vm, call: Call, cmd: abi.kvm_sev_cmd, pa: int, length: int, content: bytes | None = None
) -> bytes:
    """Decrypt the blocks around a range, and encrypt them again with new content if any."""
    start, memory = pa & -BLOCK, vm.machine.memory
    blocks = -(-(pa + length - start) // BLOCK) * BLOCK
    with _blobs(vm, call) as blobs:
        bounce = blobs.empty(PAGE_SIZE)
        _crypt(vm, call, cmd, abi.SEV_CMD_DBG_DECRYPT, start, bounce, blocks)
        if content is not None:
            memory.write(bounce + pa - start, content)
            _crypt(vm, call, cmd, abi.SEV_CMD_DBG_ENCRYPT, bounce, start, blocks)
        return memory.read(bounce + pa - start, length)


# -- the table ---------------------------------------------------------------------------------


def _guest(handler: Handler, *, es: bool = False) -> Handler:
    """The check that they share: ENOTTY for a VM of another kind."""

    def run(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
        if not (vm.sev.es_active if es else vm.sev.active):
            raise KvmError(errno.ENOTTY)
        if vm.sev.snp_active:
            # Only v12 lets them through, to be refused: no handle names an SNP guest.
            snp.issue(call, vm.sev.fd, abi.SEV_CMD_DECOMMISSION, abi.sev_data_decommission(), cmd)
        return handler(vm, call, cmd)

    return run


HANDLERS: dict[int, Handler] = {
    abi.KVM_SEV_LAUNCH_START: _guest(_start),
    abi.KVM_SEV_LAUNCH_UPDATE_DATA: _guest(_update_data),
    abi.KVM_SEV_LAUNCH_UPDATE_VMSA: _guest(_update_vmsa, es=True),
    abi.KVM_SEV_LAUNCH_SECRET: _guest(_secret),
    abi.KVM_SEV_LAUNCH_MEASURE: _guest(_measure),
    abi.KVM_SEV_LAUNCH_FINISH: _guest(_finish),
    abi.KVM_SEV_GUEST_STATUS: _guest(_status),
    abi.KVM_SEV_GET_ATTESTATION_REPORT: _guest(_attestation),
    abi.KVM_SEV_DBG_DECRYPT: _guest(_debug),
    abi.KVM_SEV_DBG_ENCRYPT: _guest(_debug),
}
"""Handlers by command; the rest of them (migration) is EINVAL here."""
