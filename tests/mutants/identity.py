# SPDX-License-Identifier: GPL-2.0-only
"""Breakages that the suite guest_req must catch: what /dev/sev offers of plain SEV."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_KVM: Final = "harness/emulator/kvm/"


def _mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    nodes = tuple(f"suites/guest_req/test_identity.py::test_{test}" for test in tests)
    return Mutant(name=f"identity: {name}", file=_KVM + file, old=old, new=new, tests=nodes)


MUTANTS: Final = (
    _mutant(
        "status is not written",
        "devsev.py",
        "call.write(issue.data, bytes(status))",
        "pass",
        "status",
        "structure_to_nowhere",
    ),
    _mutant(
        "length of the ID is lost",
        "devsev.py",
        "wanted.length = data.len",
        "pass",
        "length_of_the_id",
    ),
    _mutant(
        "ID goes with what lies behind it",
        "devsev.py",
        "call.write(wanted.address, self._machine.memory.read(pa, min(data.len, length)))",
        "call.write(wanted.address, self._machine.memory.read(pa, length + 8))",
        "id_is_that_of_reports",
    ),
    _mutant(
        "bounce buffer is not copied back",
        "ccp.py",
        "memory.write(original, memory.read(bounce, size))",
        "pass",
        "id_is_that_of_reports",
        "certificates",
    ),
    _mutant(
        "bounce buffer is one page",
        "ccp.py",
        "npages = -(-size // PAGE_SIZE)\n                bounce",
        "npages = 1\n                bounce",
        "room_for_more_than_a_page",
        "certificates",
    ),
    _mutant(
        "a buffer must be the ID's size",
        "devsev.py",
        "length = wanted.length if wanted.address else 0",
        "length = wanted.length if wanted.address and wanted.length <= 64 else 0",
        "room_for_more_than_the_id",
    ),
    _mutant(
        "ID to nowhere is served",
        "devsev.py",
        "            if pa:\n                call.write(",
        "            if pa and wanted.address > 0x10000:\n                call.write(",
        "id_to_nowhere",
    ),
    _mutant(
        "length of the chain is lost",
        "devsev.py",
        "wanted.pdh_cert_len, wanted.cert_chain_len = data.pdh_cert_len, data.cert_chain_len",
        "wanted.pdh_cert_len = data.pdh_cert_len",
        "lengths_of_certificates",
    ),
    _mutant(
        "one address is buffer enough",
        "devsev.py",
        "if all(sizes) and all(addresses):",
        "if all(sizes) and any(addresses):",
        "lengths_of_certificates",
    ),
    _mutant(
        "certificates of any length",
        "devsev.py",
        "if max(sizes) > abi.SEV_FW_BLOB_MAX_SIZE:",
        "if min(sizes) > abi.SEV_FW_BLOB_MAX_SIZE:",
        "certificates_that_are_too_long",
    ),
    _mutant(
        "SNP status without a structure",
        "devsev.py",
        "        if not issue.data:\n            raise KvmError(errno.EINVAL)\n        ccp",
        "        ccp",
        "snp_status_without_structure",
    ),
    _mutant(
        "SNP status keeps its page",
        "devsev.py",
        "if ccp.snp_initialized and not ccp.reclaim_pages(page, 1):",
        "if not ccp.snp_initialized:",
        "many_statuses",
        "structure_to_nowhere",
    ),
    _mutant(
        "any ioctl is SEV_ISSUE_CMD",
        "devsev.py",
        "if request != abi.SEV_ISSUE_CMD:",
        "if not request:",
        "other_requests",
    ),
    _mutant(
        "guests that end stay with the firmware",
        "sev.py",
        "        if not snp.decommission(vm):\n",
        "        if not vm:\n",
        "commands_from_all_sides",
    ),
)
