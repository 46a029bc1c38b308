# SPDX-License-Identifier: GPL-2.0-only
"""Page state changes: the MSR protocol and the list in the GHCB (sev.c, Linux 6.12, and v12).

KVM does not change anything itself: it asks userspace, which sets memory attributes.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from harness.emulator.kvm import nae
from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.exit import LEAVE, RESUME
from harness.uapi import ghcb as abi
from harness.uapi import kvm as uapi
from harness.uapi.interfaces import PscExit

if TYPE_CHECKING:
    from harness.emulator.kvm.ghcb import Ghcb
    from harness.emulator.kvm.vcpu import Vcpu

HEADER, ENTRY = 8, 8
GFN_MASK = (1 << 40) - 1
HUGE = 512


def _asks_by_hypercall(vcpu: Vcpu) -> bool:
    return bool(vcpu.vm.interface.psc_exit is PscExit.HYPERCALL)


def _hypercalls_enabled(vcpu: Vcpu) -> bool:
    return bool(vcpu.vm.hypercall_exits >> uapi.KVM_HC_MAP_GPA_RANGE & 1)


def _ask(vcpu: Vcpu, gpa: int, npages: int, attributes: int) -> None:
    run = vcpu.run
    run.exit_reason = uapi.KVM_EXIT_HYPERCALL
    run.hypercall.nr = uapi.KVM_HC_MAP_GPA_RANGE
    run.hypercall.args[0] = gpa
    run.hypercall.args[1] = npages
    run.hypercall.args[2] = attributes
    run.hypercall.ret = 0


# -- MSR protocol --------------------------------------------------------------------------


def begin_msr(vcpu: Vcpu, value: int) -> bool:
    """snp_begin_psc_msr: GPA in bits 51:12, operation in bits 55:52."""
    gpa = value & ((1 << 52) - 1) & ~abi.GHCB_MSR_INFO_MASK
    operation = value >> 52 & 0xF
    known = operation in (abi.SNP_PAGE_STATE_PRIVATE, abi.SNP_PAGE_STATE_SHARED)
    hypercall = _asks_by_hypercall(vcpu)
    if not known or (hypercall and not _hypercalls_enabled(vcpu)):
        vcpu.state.vmcb.ghcb_gpa = abi.GHCB_MSR_PSC_RESP_ERROR
        return RESUME
    private = operation == abi.SNP_PAGE_STATE_PRIVATE
    if hypercall:
        direction = (
            uapi.KVM_MAP_GPA_RANGE_ENCRYPTED if private else uapi.KVM_MAP_GPA_RANGE_DECRYPTED
        )
        _ask(vcpu, gpa, 1, direction | uapi.KVM_MAP_GPA_RANGE_PAGE_SZ_4K)
    else:
        run = vcpu.run
        run.exit_reason = uapi.KVM_EXIT_VMGEXIT
        run.vmgexit.type = uapi.KVM_USER_VMGEXIT_PSC_MSR
        run.vmgexit.psc_msr.gpa = gpa
        run.vmgexit.psc_msr.op = (
            uapi.KVM_USER_VMGEXIT_PSC_MSR_OP_PRIVATE
            if private
            else uapi.KVM_USER_VMGEXIT_PSC_MSR_OP_SHARED
        )
        run.vmgexit.psc_msr.ret = 0
    vcpu.state.completion = _complete_msr
    return LEAVE


def _check_result(vcpu: Vcpu) -> None:
    """kvm_is_valid_map_gpa_range_ret: EINVAL for an answer that the interface does not know."""
    known = vcpu.vm.interface.psc_results
    if known is not None and vcpu.run.hypercall.ret not in known:
        raise KvmError(errno.EINVAL)


def _complete_msr(vcpu: Vcpu) -> bool:
    """snp_complete_psc_msr: userspace's answer becomes the MSR's response."""
    run = vcpu.run
    if _asks_by_hypercall(vcpu):
        _check_result(vcpu)
    failed = run.hypercall.ret if _asks_by_hypercall(vcpu) else run.vmgexit.psc_msr.ret
    vcpu.state.vmcb.ghcb_gpa = abi.GHCB_MSR_PSC_RESP_ERROR if failed else abi.GHCB_MSR_PSC_RESP
    return RESUME


# -- list in the GHCB ----------------------------------------------------------------------


def begin(vcpu: Vcpu, request: Ghcb) -> bool:
    """The NAE event: a header and up to 253 entries in the scratch area."""
    if not _asks_by_hypercall(vcpu):
        run = vcpu.run
        run.exit_reason = uapi.KVM_EXIT_VMGEXIT
        run.vmgexit.type = uapi.KVM_USER_VMGEXIT_PSC
        run.vmgexit.psc.shared_gpa = request.scratch
        run.vmgexit.psc.ret = 0
        vcpu.state.completion = _complete_list
        return LEAVE
    area = nae.scratch_area(vcpu, request, HEADER)
    if area is None:
        return RESUME
    return _PscList(vcpu, request, area).next_range()


def _complete_list(vcpu: Vcpu) -> bool:
    """snp_complete_psc of v12: userspace has walked the list itself."""
    assert vcpu.state.ghcb is not None
    vcpu.state.ghcb.set_info_2(vcpu.run.vmgexit.psc.ret)
    return RESUME


class _PscList:
    """A list under way (snp_begin_psc): adjacent entries become one exit to userspace."""

    def __init__(self, vcpu: Vcpu, request: Ghcb, area: memoryview) -> None:
        self._vcpu = vcpu
        self._request = request
        self._area = area
        self._first = 0
        self._batch = 0

    def _header(self) -> tuple[int, int]:
        area = self._area
        return int.from_bytes(area[0:2], "little"), int.from_bytes(area[2:4], "little")

    def _set_current(self, index: int) -> None:
        self._area[0:2] = (index & 0xFFFF).to_bytes(2, "little")

    def _entry(self, index: int) -> tuple[int, int, int, int]:
        """(cur_page, gfn, operation, huge) of an entry."""
        at = HEADER + index * ENTRY
        raw = int.from_bytes(self._area[at : at + ENTRY], "little")
        return raw & 0xFFF, raw >> 12 & GFN_MASK, raw >> 52 & 0xF, raw >> 56 & 1

    def _finish(self, result: int) -> bool:
        self._request.set_info_2(result)
        return RESUME

    def next_range(self) -> bool:
        """Handle ranges until userspace must be asked or the list ends."""
        if not _hypercalls_enabled(self._vcpu):
            return self._finish(abi.VMGEXIT_PSC_ERROR_GENERIC)
        limit = (len(self._area) - HEADER) // ENTRY
        while True:
            index, last = self._header()
            if last >= limit:
                return self._finish(abi.VMGEXIT_PSC_ERROR_INVALID_HDR)
            while index <= last:
                done, gfn, _, huge = self._entry(index)
                npages = HUGE if huge else 1
                if done > npages or gfn % npages:
                    return self._finish(abi.VMGEXIT_PSC_ERROR_INVALID_ENTRY)
                if done < npages:
                    break
                index += 1
                self._set_current(index)
            else:
                return self._finish(0)
            if self._range(index, last):
                return LEAVE

    def _range(self, index: int, last: int) -> bool:
        """Collect adjacent entries; True where userspace is asked for them."""
        done, gfn, operation, huge = self._entry(index)
        entry_size = huge
        npages = (HUGE if huge else 1) - done
        first_gfn = gfn
        if done:
            gfn += done
            huge = 0
        self._first, self._batch = index, 1
        while index + 1 <= last:
            index += 1
            more_done, more_gfn, more_operation, more_huge = self._entry(index)
            if (
                more_operation != operation
                or more_gfn != first_gfn + npages
                or more_done
                or more_huge != huge
            ):
                break
            self._batch += 1
            npages += HUGE if huge else 1
        if operation not in (abi.VMGEXIT_PSC_OP_PRIVATE, abi.VMGEXIT_PSC_OP_SHARED):
            self._complete_batch()
            return False
        private = operation == abi.VMGEXIT_PSC_OP_PRIVATE
        attributes = (
            uapi.KVM_MAP_GPA_RANGE_ENCRYPTED if private else uapi.KVM_MAP_GPA_RANGE_DECRYPTED
        ) | (uapi.KVM_MAP_GPA_RANGE_PAGE_SZ_2M if entry_size else uapi.KVM_MAP_GPA_RANGE_PAGE_SZ_4K)
        _ask(self._vcpu, gfn << 12, npages, attributes)
        self._vcpu.state.completion = self._complete
        return True

    def _complete_batch(self) -> None:
        """__snp_complete_one_psc: mark what was in flight as done."""
        for index in range(self._first, self._first + self._batch):
            _, _, _, huge = self._entry(index)
            at = HEADER + index * ENTRY
            raw = int.from_bytes(self._area[at : at + ENTRY], "little")
            raw = raw & ~0xFFF | (HUGE if huge else 1)
            self._area[at : at + ENTRY] = raw.to_bytes(ENTRY, "little")
        self._set_current(self._first + self._batch)
        self._batch = 0

    def _complete(self, vcpu: Vcpu) -> bool:
        """snp_complete_one_psc: userspace answered for one range."""
        _check_result(vcpu)
        if vcpu.run.hypercall.ret:
            return self._finish(abi.VMGEXIT_PSC_ERROR_GENERIC)
        self._complete_batch()
        return self.next_range()
