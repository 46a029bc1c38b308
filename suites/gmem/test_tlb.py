# SPDX-License-Identifier: GPL-2.0-only
"""TLBs: what was unmapped, or is another vCPU's, must not be found there any more.

The flush is seen as such, by the machine's counter: whether a stale entry would have been used is
a matter of luck.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.inspector import Inspector
from harness.vm.guest import Guest
from harness.vm.host import Host
from suites.gmem.memory import MEMORY, PAGE, A, B, gmem_of, use

pytestmark = [
    pytest.mark.patches(22),
    pytest.mark.areas("guest_memfd", "nested page faults"),
    pytest.mark.needs("snp", "inspector"),
]

TURNS = 6

UNMAP: dict[str, Callable[[Guest], None]] = {
    "hole": lambda guest: gmem_of(guest).punch_hole(A, PAGE),
    "made shared": lambda guest: guest.vm.set_memory_attributes(A, PAGE, private=False),
}


def flushes(inspector: Inspector) -> int:
    """How many flushes of TLBs there were so far."""
    return inspector.counters().get("tlb_flush", 0)


@pytest.mark.parametrize("unmap", UNMAP.values(), ids=UNMAP)
def test_unmapped_and_flushed(
    guest: Guest, inspector: Inspector, unmap: Callable[[Guest], None]
) -> None:
    """A guest goes on with a flushed TLB after one of its pages was unmapped."""
    cpu = guest.cpu()
    use(cpu, B)
    for turn in range(TURNS):
        use(cpu, A)
        cpu.store(A, turn).check()
        before = flushes(inspector)
        unmap(guest)
        cpu.load(B).check()
        assert flushes(inspector) > before, f"turn {turn}"
        gmem_of(guest).punch_hole(A, PAGE)


def test_vcpus_in_turn_on_one_cpu(host: Host, inspector: Inspector) -> None:
    """Each flushes what the other left: vCPUs of one guest have the same ASID."""
    if "vmrun" not in inspector.counters():
        pytest.skip("each vCPU has a CPU of its own here")
    # The agent's threads are spread over the host's CPUs in the order of the vCPUs.
    last = host.kernel.read_file("/sys/devices/system/cpu/online")
    assert last is not None
    cpus = int(last.strip().rpartition("-")[2]) + 1
    with Guest.launch(host, memory=MEMORY, vcpus=cpus + 1) as guest:
        pair = guest.cpu(0), guest.cpu(cpus)
        for cpu in pair:
            cpu.boot()
        before = flushes(inspector)
        for _ in range(TURNS):
            pair[0].load(A)
        alone = flushes(inspector) - before
        for _ in range(TURNS):
            for cpu in pair:
                cpu.load(A)
        assert flushes(inspector) - before - alone >= 2 * TURNS - 1  # the first went on there
        assert alone < TURNS, "the counter tells nothing"
