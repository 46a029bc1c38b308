# SPDX-License-Identifier: GPL-2.0-only
"""MSRs that KVM emulates for a protected guest, x2APIC included as far as INIT and SIPI need it.

arch/x86/kvm/lapic.c and x86.c, Linux 6.12; APM vol. 2, sections 16.5 and 16.11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.emulator.kvm.vcpu import Vcpu

MSR_TSC = 0x10
MSR_APIC_BASE = 0x1B
MSR_MTRR_CAP = 0xFE
MSR_MCG_CAP = 0x179
MSR_MTRR_DEF_TYPE = 0x2FF
MSR_X2APIC_ID = 0x802
MSR_X2APIC_ICR = 0x830
X2APIC_FIRST, X2APIC_LAST = 0x800, 0x8FF

APIC_BASE_ENABLE = 1 << 11
APIC_BASE_X2APIC = 1 << 10
APIC_BASE_BSP = 1 << 8
APIC_BASE_ADDRESS = 0xFEE00000

DELIVERY_INIT, DELIVERY_STARTUP = 5, 6
SHORTHAND_ALL, SHORTHAND_OTHERS = 2, 3

STORED = {MSR_MTRR_DEF_TYPE: 0x806, MSR_MTRR_CAP: 0x508, MSR_MCG_CAP: 0}
"""MSRs with a reset value and no effect."""


def _apic_base(vcpu: Vcpu) -> int:
    default = APIC_BASE_ADDRESS | APIC_BASE_ENABLE
    if vcpu.id == vcpu.vm.bsp_id:
        default |= APIC_BASE_BSP
    return vcpu.msrs.get(MSR_APIC_BASE, default)


def _x2apic(vcpu: Vcpu) -> bool:
    return vcpu.vm.lapic and bool(_apic_base(vcpu) & APIC_BASE_X2APIC)


def read_msr(vcpu: Vcpu, index: int) -> int | None:
    """RDMSR; None raises #GP."""
    if index == MSR_APIC_BASE:
        return _apic_base(vcpu)
    if index == MSR_X2APIC_ID and _x2apic(vcpu):
        return vcpu.apic_id
    if X2APIC_FIRST <= index <= X2APIC_LAST:
        return vcpu.msrs.get(index, 0) if _x2apic(vcpu) else None
    if index == MSR_TSC:
        return vcpu.state.cpu.tsc() if vcpu.state.cpu is not None else 0
    if index in STORED:
        return vcpu.msrs.get(index, STORED[index])
    return None


def write_msr(vcpu: Vcpu, index: int, value: int) -> bool:
    """WRMSR; False raises #GP."""
    if index == MSR_APIC_BASE:
        enabled, x2apic = value & APIC_BASE_ENABLE, value & APIC_BASE_X2APIC
        if x2apic and not enabled:
            return False
        vcpu.msrs[MSR_APIC_BASE] = value
        return True
    if index == MSR_X2APIC_ICR:
        if not _x2apic(vcpu):
            return False
        _send_ipi(vcpu, value)
        return True
    if index == MSR_X2APIC_ID:
        return False
    if X2APIC_FIRST <= index <= X2APIC_LAST:
        if not _x2apic(vcpu):
            return False
        vcpu.msrs[index] = value
        return True
    if index == MSR_MTRR_DEF_TYPE:
        vcpu.msrs[index] = value
        return True
    return index == MSR_TSC


def _send_ipi(vcpu: Vcpu, icr: int) -> None:
    """kvm_apic_send_ipi: INIT and SIPI to their targets; other vectors have no one to take them."""
    mode, shorthand = icr >> 8 & 7, icr >> 18 & 3
    for target in vcpu.vm.vcpus:
        if shorthand == SHORTHAND_OTHERS and target is vcpu:
            continue
        if shorthand not in (SHORTHAND_ALL, SHORTHAND_OTHERS) and target.apic_id != icr >> 32:
            continue
        if mode == DELIVERY_INIT:
            target.state.init_pending, target.state.sipi_pending = True, False
        elif mode == DELIVERY_STARTUP:
            target.state.sipi_pending = True
