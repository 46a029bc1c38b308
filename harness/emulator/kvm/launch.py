# SPDX-License-Identifier: GPL-2.0-only
"""Launching an SNP guest: start, update, finish (snp_launch_*, arch/x86/kvm/svm/sev.c, 6.12).

Each handler is a generator that runs under the VM's lock and yields where another thread may
get a turn.  As in 6.12, none of them takes the vCPUs' mutexes, but for finish in 7.3.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from harness.emulator.kvm import snp, vmsa
from harness.emulator.kvm.errors import KvmError
from harness.emulator.memory import PAGE_SIZE
from harness.emulator.rmp import PageSize
from harness.uapi import sev as abi
from harness.uapi.errors import SevFwError
from harness.uapi.interfaces import VmsaOrder
from harness.uapi.vmsa import INITIAL_VMSA_GPA

if TYPE_CHECKING:
    from harness.emulator.kvm.files import Call
    from harness.emulator.kvm.gmem import GmemFile
    from harness.emulator.kvm.sched import Steps
    from harness.emulator.kvm.slots import Slot
    from harness.emulator.kvm.vcpu import Vcpu
    from harness.emulator.kvm.vm import Vm

PAGE_TYPES = frozenset(
    {
        abi.KVM_SEV_SNP_PAGE_TYPE_NORMAL,
        abi.KVM_SEV_SNP_PAGE_TYPE_ZERO,
        abi.KVM_SEV_SNP_PAGE_TYPE_UNMEASURED,
        abi.KVM_SEV_SNP_PAGE_TYPE_SECRETS,
        abi.KVM_SEV_SNP_PAGE_TYPE_CPUID,
    }
)


def start(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> Steps:
    """snp_launch_start: make the guest's context, start its digest, bind the ASID to it."""
    interface = vm.interface
    if not vm.sev.snp_active:
        raise KvmError(errno.ENOTTY)
    params: Any = snp.from_user(call, interface.launch_start.struct, cmd.data)
    if vm.sev.snp_context is not None:
        raise KvmError(errno.EINVAL)
    if interface.launch_flags and params.flags:
        raise KvmError(errno.EINVAL)
    if interface.policy_checked_first:
        _check_policy(vm, params.policy)
    yield None
    vm.sev.snp_context = snp.context_create(vm, call, cmd)
    if vm.sev.snp_context is None:
        raise KvmError(errno.ENOTTY)
    if not interface.policy_checked_first:
        _check_policy(vm, params.policy)
    yield None
    begin = abi.sev_data_snp_launch_start(
        gctx_paddr=vm.sev.snp_context, policy=params.policy, gosvw=bytes(params.gosvw)
    )
    activate = abi.sev_data_snp_activate(gctx_paddr=vm.sev.snp_context, asid=vm.sev.asid)
    try:
        snp.issue(call, cmd.sev_fd, abi.SEV_CMD_SNP_LAUNCH_START, begin, cmd)
        vm.sev.fd = cmd.sev_fd
        yield None
        snp.issue(call, vm.sev.fd, abi.SEV_CMD_SNP_ACTIVATE, activate, cmd)
    except KvmError as error:
        vm.machine.debug(f"kvm_amd: snp_launch_start: firmware command failed, rc {-error.errno}")
        snp.decommission(vm)
        raise
    vm.sev.policy = params.policy
    return 0


def _check_policy(vm: Vm, policy: int) -> None:
    interface = vm.interface
    if interface.policy_valid is not None and policy & ~interface.policy_valid:
        raise KvmError(errno.EINVAL)
    if policy & interface.policy_required != interface.policy_required:
        raise KvmError(errno.EINVAL)
    if policy & interface.policy_refused:
        raise KvmError(errno.EINVAL)


class _Update:
    """One LAUNCH_UPDATE under way."""

    def __init__(self, vm: Vm, call: Call, sev_fd: int, params: Any) -> None:
        self._vm = vm
        self._call = call
        self._sev_fd = sev_fd
        self._start: int = params.gfn_start
        self._type: int = params.type
        self._source: int = 0 if params.type == abi.KVM_SEV_SNP_PAGE_TYPE_ZERO else params.uaddr
        self.error = 0
        """Status of the firmware command that failed."""
        assert vm.sev.snp_context is not None
        self._command = abi.sev_data_snp_launch_update(
            gctx_paddr=vm.sev.snp_context, page_size=int(PageSize.PG_4K), page_type=params.type
        )

    def populate(self, slot: Slot, npages: int) -> Steps:
        """kvm_gmem_populate: how many pages were done; fails only when the first one did."""
        gmem = slot.gmem
        if gmem is None:
            raise KvmError(errno.EFAULT)
        npages = min(npages, slot.npages - (self._start - slot.base_gfn))
        if not self._vm.interface.update_locks_file:  # each page is a step that nothing comes into
            return (yield from self._pages(gmem, slot, npages))
        yield from gmem.invalidate_lock.lock(self._call.task)
        try:
            return (yield from self._pages(gmem, slot, npages))
        finally:
            gmem.invalidate_lock.unlock()

    def _pages(self, gmem: GmemFile, slot: Slot, npages: int) -> Steps:
        for done in range(npages):
            try:
                self._page(gmem, slot, self._start + done, done * PAGE_SIZE)
            except KvmError:
                if done and self._vm.interface.update_writes_progress:
                    return done
                raise
            yield None
        return npages

    def _page(self, gmem: GmemFile, slot: Slot, gfn: int, offset: int) -> None:
        vm = self._vm
        if self._call.task.signal_pending and vm.interface.update_writes_progress:
            raise KvmError(errno.EINTR)
        try:
            pa = gmem.populate_page(slot, gfn)
        except KvmError as error:
            if error.errno == errno.EEXIST and not vm.interface.update_assigned_errno:
                return
            raise
        if gfn not in vm.private:
            raise KvmError(errno.EINVAL)
        if self._encrypt(pa, gfn, offset):
            gmem.mark_prepared(slot, gfn)

    def _encrypt(self, pa: int, gfn: int, offset: int) -> bool:
        """sev_gmem_post_populate: copy, assign, encrypt; False for an assigned page."""
        vm = self._vm
        source = self._source + offset if self._source else 0
        if not source and self._type != abi.KVM_SEV_SNP_PAGE_TYPE_ZERO:
            raise KvmError(errno.EINVAL)
        if vm.machine.rmp.effective(pa).assigned:
            if vm.interface.update_assigned_errno:
                raise KvmError(errno.EEXIST)
            return False
        if source:
            data = self._call.read(source, PAGE_SIZE)
            vm.machine.check_host_write(pa, PAGE_SIZE)
            vm.machine.memory.write(pa, data)
        vm.kvm.host_rmp.make_private(
            pa, gfn * PAGE_SIZE, PageSize.PG_4K, vm.sev.asid, immutable=True
        )
        self._command.address = pa
        try:
            self.error = snp.firmware(
                self._call, self._sev_fd, abi.SEV_CMD_SNP_LAUNCH_UPDATE, self._command
            )
            if self.error:
                raise KvmError(errno.EIO)
        except KvmError:
            self._take_back(pa, source)
            raise
        return True

    def _take_back(self, pa: int, source: int) -> None:
        """The firmware refused the page; of a CPUID page it says how it should have been."""
        vm = self._vm
        if (
            snp.page_reclaim(vm, pa)
            and self._type == abi.KVM_SEV_SNP_PAGE_TYPE_CPUID
            and self.error == SevFwError.INVALID_PARAM
        ):
            try:
                self._call.write(source, vm.machine.memory.read(pa, PAGE_SIZE))
            except KvmError:
                vm.machine.debug("kvm_amd: Failed to write CPUID page back to userspace")


def update(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> Steps:
    """snp_launch_update: load, measure and encrypt pages of a private slot."""
    interface = vm.interface
    if not vm.sev.snp_active or vm.sev.snp_context is None:
        raise KvmError(errno.EINVAL)
    params: Any = snp.from_user(call, interface.launch_update.struct, cmd.data)
    if params.len % PAGE_SIZE or (interface.launch_flags and params.flags):
        raise KvmError(errno.EINVAL)
    if params.type not in PAGE_TYPES:
        raise KvmError(errno.EINVAL)
    if not interface.update_any_source:
        has_source = params.type != abi.KVM_SEV_SNP_PAGE_TYPE_ZERO
        misplaced = not params.uaddr or params.uaddr % PAGE_SIZE
        if not params.len or (has_source and misplaced):
            raise KvmError(errno.EINVAL)
    yield from vm.slots_lock.lock(call.task)
    try:
        slot = vm.slots.find(params.gfn_start)
        if slot is None or not slot.can_be_private:
            raise KvmError(errno.EINVAL)
        work = _Update(vm, call, cmd.sev_fd, params)
        try:
            count = yield from work.populate(slot, params.len // PAGE_SIZE)
        except KvmError as error:
            cmd.error = work.error
            vm.machine.debug(
                f"kvm_amd: snp_launch_update: kvm_gmem_populate failed, ret {-error.errno} "
                f"(fw_error {work.error})"
            )
            raise KvmError(interface.update_errno or error.errno) from error
        if interface.update_writes_progress:
            params.gfn_start += count
            params.len -= count * PAGE_SIZE
            if params.type != abi.KVM_SEV_SNP_PAGE_TYPE_ZERO:
                params.uaddr += count * PAGE_SIZE
            call.write(cmd.data, bytes(params))
    finally:
        vm.slots_lock.unlock()
    return 0


def finish(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> Steps:
    """snp_launch_finish: measure the vCPUs, then let the firmware close the launch."""
    interface, machine = vm.interface, vm.machine
    if not vm.sev.snp_active:
        raise KvmError(errno.ENOTTY)
    if vm.sev.snp_context is None:
        raise KvmError(errno.EINVAL)
    params: Any = snp.from_user(call, interface.launch_finish.struct, cmd.data)
    if interface.launch_flags and params.flags:
        raise KvmError(errno.EINVAL)
    locked: list[Vcpu] = []
    try:
        for vcpu in vm.vcpus if interface.finish_locks_vcpus else ():
            yield from vcpu.mutex.lock(call.task)
            locked.append(vcpu)
        yield from _measure_vcpus(vm, call, cmd)
    finally:
        for vcpu in locked:
            vcpu.mutex.unlock()
    data = abi.sev_data_snp_launch_finish(gctx_paddr=vm.sev.snp_context)
    blobs: list[int] = []
    try:
        if params.id_block_en:
            data.id_block_en = 1
            data.id_block_paddr = _blob(
                vm, call, params.id_block_uaddr, abi.KVM_SEV_SNP_ID_BLOCK_SIZE, blobs
            )
            data.id_auth_paddr = _blob(
                vm, call, params.id_auth_uaddr, abi.KVM_SEV_SNP_ID_AUTH_SIZE, blobs
            )
            data.auth_key_en = int(bool(params.auth_key_en))
        data.vcek_disabled = getattr(params, interface.finish_key_field) & 1
        data.host_data = bytes(params.host_data)
        yield None
        snp.issue(call, vm.sev.fd, abi.SEV_CMD_SNP_LAUNCH_FINISH, data, cmd)
    finally:
        for pa in blobs:
            machine.frames.free(pa, PAGE_SIZE)
    vm.pre_fault_allowed = True
    vm.sev.launched = True
    return 0


def _blob(vm: Vm, call: Call, address: int, length: int, blobs: list[int]) -> int:
    """psp_copy_user_blob: a copy that the firmware can read."""
    if not address:
        raise KvmError(errno.EINVAL)
    data = call.read(address, length)
    pa = vm.machine.frames.alloc(PAGE_SIZE, PAGE_SIZE)
    blobs.append(pa)
    vm.machine.memory.write(pa, data)
    return pa


def _measure_vcpus(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> Steps:
    """snp_launch_update_vmsa: each VMSA becomes a page of the guest, at a GPA out of its reach."""
    assert vm.sev.snp_context is not None
    command = abi.sev_data_snp_launch_update(
        gctx_paddr=vm.sev.snp_context, page_type=abi.SNP_PAGE_TYPE_VMSA
    )
    for vcpu in _measuring_order(vm):
        page = vmsa.build(vcpu)
        if vcpu.state.vmsa_pa is None:
            vcpu.state.vmsa_pa = snp.alloc_vmsa(vm)
        pa = vcpu.state.vmsa_pa
        vm.machine.check_host_write(pa, PAGE_SIZE)
        vm.machine.memory.write(pa, page)
        yield None
        vm.kvm.host_rmp.make_private(
            pa, INITIAL_VMSA_GPA, PageSize.PG_4K, vm.sev.asid, immutable=True
        )
        yield None
        command.address = pa
        try:
            snp.issue(call, cmd.sev_fd, abi.SEV_CMD_SNP_LAUNCH_UPDATE, command, cmd)
        except KvmError:
            snp.page_reclaim(vm, pa)
            raise
        yield None
        vcpu.guest_state_protected = True
    return 0


def _measuring_order(vm: Vm) -> list[Vcpu]:
    if vm.interface.vmsa_order is VmsaOrder.INDEX:
        return list(vm.vcpus)
    # Without a vCPU 0 the loop of that interface finds none to begin with, and measures nothing.
    boot = [vcpu for vcpu in vm.vcpus if vcpu.id == 0]
    return boot + [vcpu for vcpu in vm.vcpus if vcpu.id] if boot else []
