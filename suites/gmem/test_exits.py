# SPDX-License-Identifier: GPL-2.0-only
"""KVM_EXIT_MEMORY_FAULT: what it says, when it comes, and going on after it (6.12)."""

from __future__ import annotations

import errno

import pytest

from harness.uapi import kvm as uapi
from harness.vm import layout
from harness.vm.exits import MemoryFaultExit
from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.mailbox import Command, Op
from suites.gmem.memory import FAR, PAGE, fresh

pytestmark = [
    pytest.mark.patches(21),
    pytest.mark.areas("guest_memfd", "memory fault exits"),
    pytest.mark.needs("sw_protected"),
]

SIZE = 4 * PAGE
RET = b"\x31\xc0\xc3"
"""xor %eax, %eax; ret"""


@pytest.fixture
def barred(plain: Guest) -> Guest:
    """A guest with private memory at FAR that nothing backs: the slot has no guest_memfd."""
    plain.vm.add_slot(5, FAR, SIZE)
    fresh(plain.cpu(), FAR, SIZE)
    return plain


def _commands(gpa: int) -> dict[str, Command]:
    va = layout.private(gpa)
    return {
        "load": Command(Op.LOAD, (va, 8)),
        "load byte": Command(Op.LOAD, (va, 1)),
        "store": Command(Op.STORE, (va, 8, 1)),
        "atomic": Command(Op.LOCKED_ADD, (va, 1, 1)),
        "fetch": Command(Op.EXECUTE, (va,)),
    }


def test_reported(host: Host) -> None:
    """KVM_CAP_MEMORY_FAULT_INFO is there, of the host and of a VM."""
    assert host.extension(uapi.KVM_CAP_MEMORY_FAULT_INFO) == 1
    with host.create_vm(uapi.KVM_X86_SW_PROTECTED_VM) as vm:
        assert vm.extension(uapi.KVM_CAP_MEMORY_FAULT_INFO) == 1


@pytest.mark.parametrize("offset", [0, 8, 0x7F8, PAGE - 8, 2 * PAGE + 0x123])
@pytest.mark.parametrize("kind", _commands(0))
def test_page_of_the_access(barred: Guest, kind: str, offset: int) -> None:
    """The exit names the page that any kind of access touched, its size, and that it is private."""
    (result,) = barred.cpu().run([_commands(FAR + offset)[kind]])
    stopped = result.exit
    assert isinstance(stopped, MemoryFaultExit)
    page = FAR + offset // PAGE * PAGE
    assert (stopped.gpa, stopped.size, stopped.private) == (page, PAGE, True)
    assert stopped.errno == errno.EFAULT


def test_again_while_nothing_changed(barred: Guest) -> None:
    """A vCPU that is run again without a conversion leaves again with the same exit."""
    cpu = barred.cpu()
    first = cpu.load(FAR + PAGE).exit
    assert isinstance(first, MemoryFaultExit)
    for _ in range(3):
        assert cpu.resume() == first


@pytest.mark.parametrize("kind", _commands(0))
def test_goes_on_when_the_page_is_shared(barred: Guest, kind: str) -> None:
    """After userspace made the page shared the access is carried out, once."""
    faults: list[MemoryFaultExit] = []

    def share(_: object, fault: MemoryFaultExit) -> bool:
        faults.append(fault)
        barred.vm.set_memory_attributes(fault.gpa, fault.size, private=False)
        return True

    barred.hooks.memory_fault = share
    barred.vm.write_gpa(FAR, RET.ljust(8, b"\x90"))
    (result,) = barred.cpu().run([_commands(FAR)[kind]])
    result.check()
    word = int.from_bytes(RET.ljust(8, b"\x90"), "little")
    after = {"store": 1, "atomic": word + 1}
    assert barred.vm.read_gpa(FAR, 8) == after.get(kind, word).to_bytes(8, "little")
    seen = {"load": word, "load byte": word & 0xFF, "atomic": word + 1}
    assert result.value == seen.get(kind, 0)
    assert len(faults) == 1


def test_goes_on_when_the_memory_is_there(plain: Guest) -> None:
    """After userspace added private memory the access finds it, and it is empty."""
    vm, cpu = plain.vm, plain.cpu()
    fresh(cpu, FAR, SIZE)

    def add(_: object, fault: MemoryFaultExit) -> bool:
        vm.add_slot(5, FAR, SIZE, gmem=vm.create_gmem(SIZE))
        return True

    plain.hooks.memory_fault = add
    assert cpu.load(FAR + PAGE).check().value == 0
    cpu.store(FAR + PAGE, 5).check()
    assert vm.read_gpa(FAR + PAGE, 8) == bytes(8)


def test_only_the_private_part(plain: Guest) -> None:
    """In a slot without guest_memfd shared pages work, and the first private one stops the vCPU."""
    vm, cpu = plain.vm, plain.cpu()
    vm.add_slot(5, FAR, SIZE)
    fresh(cpu, FAR + 2 * PAGE, PAGE)
    stopped = cpu.fill(FAR, SIZE, 9, private=False).exit
    assert isinstance(stopped, MemoryFaultExit)
    assert (stopped.gpa, stopped.private) == (FAR + 2 * PAGE, True)
    assert vm.read_gpa(FAR, 2 * PAGE) == (9).to_bytes(8, "little") * (2 * PAGE // 8)
    assert vm.read_gpa(FAR + 3 * PAGE, 8) == bytes(8)


def test_every_vcpu_has_its_own(plain_pair: Guest) -> None:
    """Two vCPUs that fault on two pages leave each with its own page."""
    plain_pair.vm.add_slot(5, FAR, SIZE)
    fresh(plain_pair.cpu(), FAR, SIZE)
    pages = [FAR + number * PAGE for number in (1, 3)]
    both = [
        cpu.start(_commands(gpa)["load"]) for cpu, gpa in zip(plain_pair.cpus, pages, strict=True)
    ]
    plain_pair.wait(both)
    for cpu, gpa in zip(plain_pair.cpus, pages, strict=True):
        assert isinstance(cpu.stopped, MemoryFaultExit)
        assert cpu.stopped.gpa == gpa


def test_shared_access_without_a_slot_is_mmio(plain: Guest) -> None:
    """Where nothing is private and no slot lies, an access is no memory fault."""
    result = plain.cpu().load(FAR, private=False)
    assert not result.ok
    assert not isinstance(result.exit, MemoryFaultExit)
