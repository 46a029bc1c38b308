# SPDX-License-Identifier: GPL-2.0-only
"""Pages whose RMP entry cannot be given back: counted, never used again, and nothing else lost."""

from __future__ import annotations

from typing import Any

import pytest

from harness.emulator.emulator import Emulator
from harness.emulator.machine import MachineConfig
from harness.emulator.rmp import RmpCode
from harness.uapi.interfaces import INTERFACES
from harness.vm.guest import Guest
from harness.vm.host import Host

A, PAGE, HUGE = 0x400000, 0x1000, 0x200000


def _refuse(kernel: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on RMPUPDATE and PSMASH refuse what would take a page from a guest."""
    rmp = kernel.machine.rmp
    one, many = rmp.rmpupdate, rmp.rmpupdate_range

    def update(spa: int, *, assigned: bool, **rest: Any) -> RmpCode:
        return one(spa, assigned=True, **rest) if assigned else RmpCode.FAIL_INUSE

    def update_range(spa: int, npages: int, *, assigned: bool, **rest: Any) -> Any:
        if assigned:
            return many(spa, npages, assigned=True, **rest)
        return RmpCode.FAIL_INUSE, 0

    monkeypatch.setattr(rmp, "rmpupdate", update)
    monkeypatch.setattr(rmp, "rmpupdate_range", update_range)
    monkeypatch.setattr(rmp, "psmash", lambda spa: RmpCode.FAIL_INUSE)


@pytest.mark.parametrize("order", [0, 9], ids=["4K", "2M"])
@pytest.mark.parametrize("hole", [0, PAGE, HUGE], ids=["close", "small hole", "large hole"])
@pytest.mark.parametrize("name", INTERFACES)
def test_refused_pages_are_leaked(
    name: str, hole: int, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freeing never fails; each page that a guest keeps is counted, and the VM is gone."""
    with Emulator(name, MachineConfig(gmem_max_order=order, memory=4 << 30)) as kernel:
        inspector = kernel.inspector
        assert inspector is not None
        host = Host(kernel, INTERFACES[name])
        guest = Guest.launch(host)
        cpu = guest.cpu()
        cpu.boot()
        guest.vm.set_memory_attributes(A, HUGE, private=True)
        cpu.validate(A, HUGE, large=True)
        gmem = guest.vm.gmems[0]
        _refuse(kernel, monkeypatch)
        if hole:
            gmem.punch_hole(A, hole)
        gmem.close()
        counters = inspector.counters()
        kept = inspector.assigned_pages()
        assert kept >= HUGE // PAGE
        vmsas = len(guest.cpus)  # KVM's own VMSA pages go with the VM, not with the file
        assert counters["leaked_pages"] == kept - vmsas
        assert "WARNING" in kernel.log()
        monkeypatch.undo()
        guest.close()
        assert inspector.counters()["vms"] == 0
        assert inspector.counters()["asids"] == 0
