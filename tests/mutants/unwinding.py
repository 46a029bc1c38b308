# SPDX-License-Identifier: GPL-2.0-only
"""Breakages that the suites must catch: locks, and what the end or a failure has to undo."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_KVM: Final = "harness/emulator/kvm/"


def _mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    nodes = tuple(f"suites/{test}" for test in tests)
    return Mutant(name=f"unwinding: {name}", file=_KVM + file, old=old, new=new, tests=nodes)


MUTANTS: Final = (
    _mutant(
        "a conversion does not wait for LAUNCH_UPDATE",
        "vm.py",
        "    yield from vm.slots_lock.lock(call.task)\n    try:\n        if not (vm.private",
        "    yield None\n    try:\n        if not (vm.private",
        "launch/test_races.py::test_conversion_waits_for_an_update",
    ),
    _mutant(
        "a hole does not wait for LAUNCH_UPDATE",
        "gmem.py",
        "        yield from self.invalidate_lock.lock(task)\n",
        "        yield None\n",
        "launch/test_races.py::test_hole_waits_for_an_update",
    ),
    _mutant(
        "the seventeenth ASID is given twice",
        "asid.py",
        "        self._taken.add(asid)\n",
        "        self._taken.update({asid} if self.used < 16 else ())\n",
        "launch/test_races.py::test_initialised_in_parallel",
    ),
    _mutant(
        "a VMSA that was not measured stays assigned",
        "launch.py",
        "            snp.page_reclaim(vm, pa)\n            raise\n",
        "            raise\n",
        "launch/test_finish.py::test_descriptor_that_is_not_dev_sev",
    ),
    _mutant(
        "the end of a guest flushes no caches",
        "sev.py",
        "    if vm.interface.end_flushes_caches:\n        kvm.ccp.wbinvd()\n",
        "",
        "launch/test_teardown.py::test_end_flushes_caches",
    ),
    _mutant(
        "a VMSA is freed unflushed",
        "snp.py",
        "    if vcpu.guest_state_protected:\n",
        "    if not vcpu.guest_state_protected:\n",
        "launch/test_teardown.py::test_end_flushes_caches",
    ),
    _mutant(
        "LAUNCH_UPDATE does not look at signals",
        "launch.py",
        "if self._call.task.signal_pending and vm.interface.update_writes_progress:",
        "if False:",
        "launch/test_update.py::test_signal_in_the_middle",
    ),
    _mutant(
        "the page for responses stays with the firmware",
        "snp.py",
        "vm.kvm.ccp.free_firmware_page(vm.sev.guest_resp_buffer)",
        "pass",
        "launch/test_teardown.py::test_every_stage",
    ),
)
