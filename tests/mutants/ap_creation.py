# SPDX-License-Identifier: GPL-2.0-only
"""Breakages that the suite ap_creation must catch: requests that KVM refuses."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_AP: Final = "harness/emulator/kvm/ap.py"


def _mutant(name: str, old: str, new: str, *tests: str) -> Mutant:
    nodes = tuple(f"suites/ap_creation/test_requests.py::test_{test}" for test in tests)
    return Mutant(name=f"ap_creation: {name}", file=_AP, old=old, new=new, tests=nodes)


MUTANTS: Final = (
    _mutant(
        "address unaligned", "if gpa % PAGE_SIZE or gpa >> 52:", "if gpa >> 52:", "bad_address"
    ),
    _mutant(
        "address beyond physical memory",
        "if gpa % PAGE_SIZE or gpa >> 52:",
        "if gpa % PAGE_SIZE:",
        "bad_address",
    ),
    _mutant("address aligned to 2 MiB", "if gpa % PAGE_SIZE_2M == 0:", "if False:", "bad_address"),
    _mutant(
        "any injection mode",
        "if changed & SVM_SEV_FEAT_INT_INJ_MODES:",
        "if False:",
        "injection_mode_not_offered",
    ),
    _mutant(
        "unknown request is a destroy",
        "elif operation == abi.SVM_VMGEXIT_AP_DESTROY:",
        "elif operation >= abi.SVM_VMGEXIT_AP_DESTROY:",
        "unknown_request",
    ),
    _mutant(
        "refusals are silent",
        "if not _create(vcpu, request):",
        "if _create(vcpu, request) is None:",
        "unknown_apic_id",
        "unknown_request",
    ),
)
