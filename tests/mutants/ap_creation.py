# SPDX-License-Identifier: GPL-2.0-only
"""Breakages that the suite ap_creation must catch."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_KVM: Final = "harness/emulator/kvm/"
_AP: Final = _KVM + "ap.py"
_RUN: Final = _KVM + "run.py"


def _mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    nodes = tuple(f"suites/ap_creation/test_{test}" for test in tests)
    return Mutant(name=f"ap_creation: {name}", file=file, old=old, new=new, tests=nodes)


_REFUSALS: Final = "refusals.py::test_"
_CREATE: Final = "create.py::test_"

MUTANTS: Final = (
    _mutant(
        "address unaligned",
        _AP,
        "if gpa % PAGE_SIZE or gpa >> 52:",
        "if gpa >> 52:",
        _REFUSALS + "unaligned_vmsa",
    ),
    _mutant(
        "address beyond physical memory",
        _AP,
        "if gpa % PAGE_SIZE or gpa >> 52:",
        "if gpa % PAGE_SIZE:",
        _REFUSALS + "vmsa_beyond_the_address_space",
    ),
    _mutant(
        "address aligned to 2 MiB",
        _AP,
        "if gpa % PAGE_SIZE_2M == 0:",
        "if False:",
        _REFUSALS + "vmsa_aligned_to_2m",
    ),
    _mutant(
        "any injection mode",
        _AP,
        "else SVM_SEV_FEAT_INT_INJ_MODES",
        "else 0",
        _REFUSALS + "injection_mode",
    ),
    _mutant(
        "unknown request is a destroy",
        _AP,
        "elif operation == abi.SVM_VMGEXIT_AP_DESTROY:",
        "elif operation >= abi.SVM_VMGEXIT_AP_DESTROY:",
        _REFUSALS + "unknown_request",
    ),
    _mutant(
        "VMPL is not looked at",
        _AP,
        "operation, apic_id = request.info_1 & U32,",
        "operation, apic_id = request.info_1 & 0xFFFF,",
        _REFUSALS + "vmpl_other_than_zero",
    ),
    _mutant(
        "refusals are silent",
        _AP,
        "if not _create(vcpu, request):",
        "if _create(vcpu, request) is None:",
        _REFUSALS + "unknown_apic_id",
    ),
    _mutant(
        "any vCPU will do",
        _AP,
        "target = vm.vcpu_by_id(apic_id)",
        "target = vm.vcpu_by_id(apic_id) or vm.vcpus[-1]",
        _REFUSALS + "unknown_apic_id",
    ),
    _mutant(
        "features need not be given",
        _KVM + "vmgexit.py",
        "needed = () if request.info_1 & U32 == abi.SVM_VMGEXIT_AP_DESTROY else (page.RAX,)",
        "needed = ()",
        _REFUSALS + "features_missing",
    ),
    _mutant(
        "features needed for DESTROY",
        _KVM + "vmgexit.py",
        "needed = () if request.info_1 & U32 == abi.SVM_VMGEXIT_AP_DESTROY else (page.RAX,)",
        "needed = (page.RAX,)",
        _REFUSALS + "destroy_needs_no_features",
    ),
    _mutant(
        "nobody is woken",
        _AP,
        "state.update_pending = pending or operation != abi.SVM_VMGEXIT_AP_CREATE_ON_INIT",
        "state.update_pending = False",
        _CREATE + "ap_runs",
    ),
    _mutant(
        "CREATE_ON_INIT starts at once",
        _AP,
        "state.update_pending = pending or operation != abi.SVM_VMGEXIT_AP_CREATE_ON_INIT",
        "state.update_pending = True",
        _CREATE + "on_init_waits_for_init",
    ),
    _mutant(
        "wake-up is forgotten when asleep",
        _RUN,
        "return state.update_pending or state.init_pending or state.sipi_pending",
        "return state.init_pending or state.sipi_pending",
        _CREATE + "wake_up_race",
    ),
    _mutant(
        "INIT wakes nobody",
        _RUN,
        "return state.update_pending or state.init_pending or state.sipi_pending",
        "return state.update_pending",
        _CREATE + "on_init_waits_for_init",
    ),
    _mutant(
        "INIT leaves the VMSA alone",
        _AP,
        "        state.init_pending = False\n        reset(vcpu)\n",
        "        state.init_pending = False\n",
        _CREATE + "on_init_waits_for_init",
    ),
    _mutant(
        "first VMSA for ever",
        _RUN,
        "vmsa = state.guest_vmsa_pa if state.has_guest_vmsa else state.vmsa_pa",
        "vmsa = state.vmsa_pa",
        _CREATE + "registers_come_from_the_vmsa",
    ),
    _mutant(
        "destroyed and running on",
        _AP,
        "    vcpu.mp_state = uapi.KVM_MP_STATE_HALTED\n",
        "    vcpu.mp_state = vcpu.mp_state\n",
        _CREATE + "destroyed_ap_is_stopped",
        _CREATE + "destroyed_before_it_ran",
    ),
    _mutant(
        "DESTROY keeps what is pending",
        _AP,
        "elif operation == abi.SVM_VMGEXIT_AP_DESTROY:\n        state.pending_vmsa_gpa = None",
        "elif operation == abi.SVM_VMGEXIT_AP_DESTROY:\n        pass",
        _CREATE + "destroyed_before_it_ran",
    ),
    _mutant(
        "a VMSA is any page",
        "harness/emulator/cpu/cpu.py",
        "        if not entry.vmsa:",
        "        if False:",
        _REFUSALS + "page_that_is_no_vmsa",
    ),
    _mutant(
        "SNP features not needed in the VMSA",
        "harness/emulator/cpu/state.py",
        "(not features & SNP_ACTIVE,",
        "(False,",
        _REFUSALS + "wrong_features_in_the_vmsa",
    ),
    _mutant(
        "no memory, initial state",
        _AP,
        "    state.guest_vmsa_pa = _vmsa_page(vcpu, gpa)\n",
        "    state.guest_vmsa_pa = _vmsa_page(vcpu, gpa) or state.vmsa_pa\n",
        _REFUSALS + "no_memory_at_the_address",
    ),
    _mutant(
        "UNINITIALIZED can be created",
        _RUN,
        "if vcpu.mp_state == uapi.KVM_MP_STATE_UNINITIALIZED:",
        "if False:",
        _CREATE + "uninitialized_target",
    ),
    _mutant(
        "no AP creation among the features",
        _KVM + "vmgexit.py",
        "    request.set_info_2(abi.GHCB_HV_FT_SUPPORTED)",
        "    request.set_info_2(abi.GHCB_HV_FT_SNP)",
        _CREATE + "hypervisor_features",
    ),
    _mutant(
        "reset hold does not wait",
        _AP,
        "return run.halt(vcpu, uapi.KVM_MP_STATE_AP_RESET_HOLD, uapi.KVM_EXIT_AP_RESET_HOLD)",
        "return RESUME",
        _CREATE + "reset_hold_sleeps",
    ),
    _mutant(
        "reset hold by the page ends without a word",
        _AP,
        "state.ghcb.set_info_2(1)",
        "state.ghcb.set_info_2(0)",
        _CREATE + "reset_hold_says_that_it_was_a_sipi",
    ),
    _mutant(
        "a refused request stops the target in no interface",
        _AP,
        "if vm.interface.ap_creation_error_stops_target:",
        "if False:",
        _REFUSALS + "guest_cannot_take_a_running_vcpus_state",
    ),
    _mutant(
        "features count for DESTROY",
        _AP,
        "    if operation < abi.SVM_VMGEXIT_AP_DESTROY:\n",
        "    if operation <= abi.SVM_VMGEXIT_AP_DESTROY:\n",
        _REFUSALS + "destroy_ignores_the_features",
    ),
)
