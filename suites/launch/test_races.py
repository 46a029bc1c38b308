# SPDX-License-Identifier: GPL-2.0-only
"""Launches against other threads: FINISH and vCPU ioctls, commands twice, VMs side by side.

Each race runs with several seeds, which draw the order of the threads' steps.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from harness.kernel import Kernel
from harness.operations import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    Fallocate,
    Ioctl,
    Op,
    Result,
    Ticket,
)
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.uapi.errors import SevFwError
from harness.vm import boot as entry
from harness.vm import launch_digest
from harness.vm.boot import LaunchPages
from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.results import OK, SevResult, failed
from harness.vm.vcpu import Vcpu
from harness.vm.vm import DEFAULT_POLICY, Vm, fill
from suites.launch.launching import (
    BASE,
    NORMAL,
    PAGE,
    ZERO,
    add_private,
    finish,
    id_fields,
    report_of,
    update,
)

pytestmark = [
    pytest.mark.patches(10, 11, 12),
    pytest.mark.areas("launch", "races"),
    pytest.mark.needs("snp"),
]

SEEDS = range(1, 9)
FEW_SEEDS = range(1, 5)
WRITES = 6
MANY = 256
"""Pages that take long enough to load for something else to happen meanwhile."""


@dataclass
class Racing:
    """A SEV command under way on a thread of its own."""

    vm: Vm
    thread: int
    data: bytes
    ticket: Ticket

    @classmethod
    def start(cls, vm: Vm, thread: int, command: int, struct: Any) -> Racing:
        """Queue a command; it makes progress while others do."""
        number, data = vm.thread_base + thread, bytes(struct)
        ticket = vm.kernel.start(vm.sev_ops(command, data, thread=number), thread=number)
        return cls(vm, number, data, ticket)

    def end(self) -> SevResult:
        """Wait for the command."""
        results = self.vm.kernel.wait(self.ticket)
        return self.vm.sev_result(results, self.data, thread=self.thread)


def racing_finish(vm: Vm, thread: int = 40) -> Racing:
    """Queue LAUNCH_FINISH."""
    command = vm.interface.launch_finish
    return Racing.start(vm, thread, command.id, command.struct())


@pytest.fixture(autouse=True)
def _closed(host: Host) -> Iterator[None]:
    """Close what a test that failed has left open: it is none of the next one's business."""
    before = list(host.vms)
    yield
    for vm in [vm for vm in host.vms if vm not in before]:
        vm.close()


def started_vm(host: Host, vcpus: int = 0) -> Vm:
    """A VM after LAUNCH_START, with private memory."""
    vm = host.create_vm(uapi.KVM_X86_SNP_VM)
    vm.sev_init2()
    add_private(vm)
    for _ in range(vcpus):
        vm.create_vcpu()
    vm.launch_start()
    return vm


def assert_nothing_left(host: Host) -> None:
    """No guest holds anything in the host."""
    assert host.sev.platform_status().guest_count == 0
    inspector = host.kernel.inspector
    if inspector is not None:
        assert inspector.assigned_pages() == 0
        counters = inspector.counters()
        assert counters["asids"] == 0
        assert counters["leaked_pages"] == 0


def repeat(kernel: Kernel, vcpu: Vcpu, op: Ioctl, times: int, thread: int) -> list[Ticket]:
    """Queue an ioctl several times, each a batch of its own that may fail."""
    return [kernel.start([op], thread=vcpu.vm.thread_base + thread) for _ in range(times)]


# -- FINISH and vCPU ioctls ----------------------------------------------------------------

VCPU_OPS: dict[str, Callable[[Vcpu], Ioctl]] = {
    "set regs": lambda vcpu: Ioctl(
        vcpu.fd, uapi.KVM_SET_REGS, bytes(uapi.kvm_regs(rip=0x10, rflags=2))
    ),
    "get regs": lambda vcpu: Ioctl(vcpu.fd, uapi.KVM_GET_REGS, bytes(uapi.kvm_regs())),
    "set sregs": lambda vcpu: Ioctl(vcpu.fd, uapi.KVM_SET_SREGS, bytes(vcpu.get_sregs())),
    "get fpu": lambda vcpu: Ioctl(vcpu.fd, uapi.KVM_GET_FPU, bytes(uapi.kvm_fpu())),
    "set fpu": lambda vcpu: Ioctl(vcpu.fd, uapi.KVM_SET_FPU, bytes(uapi.kvm_fpu())),
}


@pytest.mark.parametrize("name", [name for name in VCPU_OPS if "fpu" not in name])
@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_finish_against_vcpu_ioctls(scheduled: Callable[[int], Host], seed: int, name: str) -> None:
    """Each vCPU ioctl either comes before its vCPU is measured or is refused, never after one."""
    host = scheduled(seed)
    vm = started_vm(host, vcpus=3)
    ops = [VCPU_OPS[name](vcpu) for vcpu in vm.vcpus]
    tickets = [
        repeat(host.kernel, vcpu, op, WRITES, thread)
        for thread, (vcpu, op) in enumerate(zip(vm.vcpus, ops, strict=True), 1)
    ]
    done = racing_finish(vm).end()
    assert done.outcome == OK
    for row, op in zip(tickets, ops, strict=True):
        codes = [host.kernel.wait(ticket)[-1].errno for ticket in row]
        assert set(codes) <= {0, errno.EINVAL}
        assert codes == sorted(codes), "an ioctl succeeded after one was refused"
        assert host.kernel.call(op).errno == errno.EINVAL
    vm.close()
    assert_nothing_left(host)


def racing_registers(host: Host) -> tuple[bytes, list[bytes]]:
    """Let RBX be written while the launch is finished: the digest, and those that may be.

    The first of those is the digest with the last value that KVM accepted.
    """
    vm = host.create_vm(uapi.KVM_X86_SNP_VM)
    guest = Guest.of(vm)
    vm.sev_init2()
    guest.add_memory()
    vcpu = guest.add_vcpu().vcpu
    vm.launch_start()
    guest.load()
    sregs = uapi.kvm_sregs()
    entry.set_sregs(sregs)
    regs = entry.entry_regs(guest.image, 0)
    digests, writes = [], []
    for value in range(WRITES + 1):
        regs.rbx = value
        vmsas = [launch_digest.vmsa_page(regs, sregs)]
        digests.append(launch_digest.launch_digest(guest.pages, vmsas))
        if value:
            op = Ioctl(vcpu.fd, uapi.KVM_SET_REGS, bytes(regs))
            writes.append(vm.kernel.start([op], thread=vcpu.thread))
    done = racing_finish(vm).end()
    assert done.outcome == OK
    accepted = sum(vm.kernel.wait(ticket)[-1].ok for ticket in writes)
    measurement = report_of(guest).measurement
    vm.close()
    return measurement, [digests[accepted], *digests]


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_measured_state_is_one_that_was(scheduled: Callable[[int], Host], seed: int) -> None:
    """A VMSA measured while registers are written holds a state that the vCPU had, never a mix."""
    host = scheduled(seed)
    measurement, possible = racing_registers(host)
    assert measurement in possible
    assert_nothing_left(host)


def test_accepted_registers_are_measured(scheduled: Callable[[int], Host]) -> None:
    """A register write that KVM accepts is in the measured VMSA.

    Without the vCPUs' mutexes held over LAUNCH_FINISH a write between the copy of the registers
    and the vCPU's protection succeeds and is lost: a known issue, CVE-2026-31591.
    """
    lost = []
    for seed in SEEDS:
        measurement, possible = racing_registers(scheduled(seed))
        if measurement != possible[0]:
            lost.append(seed)
    assert not lost, f"with seeds {lost} an accepted write was not measured"


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_finish_against_run(scheduled: Callable[[int], Host], seed: int) -> None:
    """A vCPU that runs while the launch is finished enters the guest after that or not at all."""
    host = scheduled(seed)
    vm = host.create_vm(uapi.KVM_X86_SNP_VM)
    guest = Guest.of(vm)
    vm.sev_init2()
    guest.add_memory()
    cpu = guest.add_vcpu()
    vm.launch_start()
    guest.load()
    ticket = cpu.vcpu.start()
    done = racing_finish(vm).end()
    assert done.outcome == OK
    cpu.vcpu.finish(ticket)
    assert report_of(guest).measurement == guest.expected_digest()
    vm.close()
    assert_nothing_left(host)


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_finish_against_create_vcpu(scheduled: Callable[[int], Host], seed: int) -> None:
    """A vCPU created during LAUNCH_FINISH is measured, or the launch is EBUSY, or it comes late."""
    host = scheduled(seed)
    vm = started_vm(host, vcpus=2)
    number = vm.thread_base + 30
    tickets = [
        vm.kernel.start([Ioctl(vm.fd, uapi.KVM_CREATE_VCPU, id)], thread=number) for id in (2, 3)
    ]
    done = racing_finish(vm).end()
    assert done.outcome in (OK, failed(errno.EBUSY))
    for ticket in tickets:
        [made] = vm.kernel.wait(ticket)
        assert made.ok
        vm.kernel.close(made.value)
    vm.close()
    assert_nothing_left(host)


# -- commands against each other -----------------------------------------------------------


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_two_starts(scheduled: Callable[[int], Host], seed: int) -> None:
    """Of two LAUNCH_STARTs at once exactly one begins the launch."""
    host = scheduled(seed)
    vm = host.create_vm(uapi.KVM_X86_SNP_VM)
    vm.sev_init2()
    command = vm.interface.launch_start
    struct = fill(command.struct, policy=DEFAULT_POLICY)
    racers = [Racing.start(vm, thread, command.id, struct) for thread in (1, 2)]
    codes = sorted(racer.end().errno for racer in racers)
    assert codes == [0, errno.EINVAL]
    assert host.sev.platform_status().guest_count == 1
    vm.close()
    assert_nothing_left(host)


@pytest.mark.needs("update_assigned_errno")
@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_two_updates_of_one_range(scheduled: Callable[[int], Host], seed: int) -> None:
    """Of two LAUNCH_UPDATEs of one range one loads it; each page is measured once."""
    host = scheduled(seed)
    vm = started_vm(host)
    command = vm.interface.launch_update
    racers = []
    for thread in (1, 2):
        struct = vm.update_struct(BASE, 0, 8 * PAGE, ZERO)
        racers.append(Racing.start(vm, thread, command.id, struct))
    codes = sorted(racer.end().errno for racer in racers)
    assert codes == [0, vm.interface.update_assigned_errno]
    digest = launch_digest.launch_digest([LaunchPages(BASE, bytes(8 * PAGE), ZERO)], [])
    assert finish(vm, **id_fields(digest)) == OK
    vm.close()
    assert_nothing_left(host)


@pytest.mark.parametrize("seed", SEEDS)
def test_update_against_finish(scheduled: Callable[[int], Host], seed: int) -> None:
    """A LAUNCH_UPDATE that races the end of the launch is done before it or refused after it."""
    host = scheduled(seed)
    vm = started_vm(host, vcpus=1)
    command = vm.interface.launch_update
    struct = vm.update_struct(BASE, 0, 8 * PAGE, ZERO)
    racer = Racing.start(vm, 1, command.id, struct)
    done = racing_finish(vm).end()
    assert done.outcome == OK
    late = failed(vm.interface.update_firmware_errno, SevFwError.INVALID_GUEST_STATE)
    result = racer.end()
    outcome = result.outcome
    assert outcome in (OK, late)
    inspector = host.kernel.inspector
    if inspector is not None:
        assert inspector.assigned_pages() == 1 + (8 if outcome == OK else 0)
    vm.close()
    assert_nothing_left(host)


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_two_finishes(scheduled: Callable[[int], Host], seed: int) -> None:
    """Of two LAUNCH_FINISHes at once one ends the launch, the other is refused."""
    host = scheduled(seed)
    vm = started_vm(host, vcpus=2)
    racers = [racing_finish(vm, thread) for thread in (1, 2)]
    codes = sorted(racer.end().errno for racer in racers)
    assert codes == [0, errno.EINVAL]
    vm.close()
    assert_nothing_left(host)


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_init2_against_create_vcpu(scheduled: Callable[[int], Host], seed: int) -> None:
    """KVM_SEV_INIT2 is refused where a vCPU came first, and never leaves an ASID behind."""
    host = scheduled(seed)
    vm = host.create_vm(uapi.KVM_X86_SNP_VM)
    ticket = vm.kernel.start([Ioctl(vm.fd, uapi.KVM_CREATE_VCPU, 0)], thread=vm.thread_base + 2)
    code = Racing.start(vm, 1, sevapi.KVM_SEV_INIT2, sevapi.kvm_sev_init()).end().errno
    assert code in (0, errno.EINVAL)
    [made] = vm.kernel.wait(ticket)
    assert made.ok
    vm.kernel.close(made.value)
    vm.close()
    assert_nothing_left(host)


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_update_against_conversion(scheduled: Callable[[int], Host], seed: int) -> None:
    """Pages converted to shared while they are loaded are loaded or not, and never leaked."""
    host = scheduled(seed)
    vm = started_vm(host)
    command = vm.interface.launch_update
    racer = Racing.start(vm, 1, command.id, vm.update_struct(BASE, 0, 8 * PAGE, ZERO))
    convert = vm.attributes_op(BASE, 8 * PAGE, private=False)
    ticket = vm.kernel.start([convert], thread=vm.thread_base + 2)
    assert racer.end().errno in (0, vm.interface.update_not_private_errno)
    assert vm.kernel.wait(ticket)[-1].ok
    vm.close()
    assert_nothing_left(host)


@pytest.mark.needs("update_writes_progress")
@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_conversion_waits_for_an_update(scheduled: Callable[[int], Host], seed: int) -> None:
    """A conversion comes before a LAUNCH_UPDATE of its range or after it, never in the middle."""
    host = scheduled(seed)
    vm = host.create_vm(uapi.KVM_X86_SNP_VM)
    vm.sev_init2()
    add_private(vm, MANY)
    vm.launch_start()
    struct: Any = vm.update_struct(BASE, 0, MANY * PAGE, ZERO)
    racer = Racing.start(vm, 1, vm.interface.launch_update.id, struct)
    for _ in range(seed):
        vm.kernel.ioctl(host.fd, uapi.KVM_GET_API_VERSION)  # some time for the first pages
    convert = vm.attributes_op(BASE, MANY * PAGE, private=False)
    ticket = vm.kernel.start([convert], thread=vm.thread_base + 2)
    result = racer.end()
    assert vm.kernel.wait(ticket)[-1].ok
    left = type(struct).from_buffer_copy(result.data)
    # Either no page is left, or the first one was refused.
    assert result.errno in (0, vm.interface.update_not_private_errno)
    assert left.len // PAGE == (MANY if result.errno else 0)
    vm.close()
    assert_nothing_left(host)


@pytest.mark.needs("inspector", "update_locks_file")
@pytest.mark.patches(22)
@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_hole_waits_for_an_update(scheduled: Callable[[int], Host], seed: int) -> None:
    """A hole comes before a LAUNCH_UPDATE of its range or after it: all pages stay, or none."""
    host = scheduled(seed)
    inspector = host.kernel.inspector
    assert inspector is not None
    vm = host.create_vm(uapi.KVM_X86_SNP_VM)
    vm.sev_init2()
    gmem = add_private(vm, MANY)
    vm.launch_start()
    before = inspector.assigned_pages()
    struct = vm.update_struct(BASE, 0, MANY * PAGE, ZERO)
    racer = Racing.start(vm, 1, vm.interface.launch_update.id, struct)
    for _ in range(seed):
        vm.kernel.ioctl(host.fd, uapi.KVM_GET_API_VERSION)  # some time for the first pages
    hole = Fallocate(gmem.fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, MANY * PAGE)
    ticket = vm.kernel.start([hole], thread=vm.thread_base + 2)
    assert racer.end().errno == 0
    assert vm.kernel.wait(ticket)[-1].ok
    assert inspector.assigned_pages() - before in (0, MANY)
    vm.close()
    assert_nothing_left(host)


# -- VMs side by side ----------------------------------------------------------------------


def launch_ops(vm: Vm, thread: int, data: bytes) -> list[Op]:
    """A whole launch as one batch."""
    interface = vm.interface
    source = vm.stage(data)
    structs: Sequence[tuple[int, Any]] = [
        (interface.launch_start.id, fill(interface.launch_start.struct, policy=DEFAULT_POLICY)),
        (interface.launch_update.id, vm.update_struct(BASE, source, len(data), NORMAL)),
    ]
    return [
        op
        for command, struct in structs
        for op in vm.sev_ops(command, bytes(struct), thread=thread)
    ]


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_vms_in_parallel(scheduled: Callable[[int], Host], seed: int) -> None:
    """Six guests launched at once get contexts, ASIDs and digests of their own."""
    host = scheduled(seed)
    vms: list[Vm] = []
    tickets: list[Ticket] = []
    for number in range(6):
        vm = host.create_vm(uapi.KVM_X86_SNP_VM)
        vm.sev_init2()
        add_private(vm)
        vms.append(vm)
        thread = vm.thread_base + 1
        ops = launch_ops(vm, thread, bytes([number]) * 4 * PAGE)
        tickets.append(host.kernel.start(ops, thread=thread))
    results: list[list[Result]] = [host.kernel.wait(ticket) for ticket in tickets]
    assert all(result.ok for row in results for result in row)
    assert host.sev.platform_status().guest_count == 6
    inspector = host.kernel.inspector
    if inspector is not None:
        states = [inspector.gmem_rmp(vm.gmems[0].fd, 0) for vm in vms]
        assert len({state.asid for state in states if state.present}) == 6
    for number, vm in enumerate(vms):
        pages = [LaunchPages(BASE, bytes([number]) * 4 * PAGE, NORMAL)]
        digest = launch_digest.launch_digest(pages, [])
        assert finish(vm, **id_fields(digest)) == OK, f"guest {number}"
    for vm in vms:
        vm.close()
    assert_nothing_left(host)


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_initialised_in_parallel(scheduled: Callable[[int], Host], seed: int) -> None:
    """Each of many VMs that two threads initialise at once gets an ASID that no other has."""
    host = scheduled(seed)
    halves = [[host.create_vm(uapi.KVM_X86_SNP_VM) for _ in range(12)] for _ in range(2)]
    struct = bytes(sevapi.kvm_sev_init())
    tickets = []
    for vms in halves:
        thread = vms[0].thread_base + 1
        ops = [op for vm in vms for op in vm.sev_ops(sevapi.KVM_SEV_INIT2, struct, thread=thread)]
        tickets.append(host.kernel.start(ops, thread=thread))
    assert all(result.ok for ticket in tickets for result in host.kernel.wait(ticket))
    vms = [vm for half in halves for vm in half]
    for vm in vms:
        vm.launch_start()  # the firmware binds an ASID to one guest only
    for vm in vms:
        vm.close()
    assert_nothing_left(host)


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_one_ends_while_others_launch(scheduled: Callable[[int], Host], seed: int) -> None:
    """The end of one guest does not disturb the launch of another."""
    host = scheduled(seed)
    ending = started_vm(host)
    assert update(ending) == OK
    vm = host.create_vm(uapi.KVM_X86_SNP_VM)
    vm.sev_init2()
    add_private(vm)
    data = b"\x6b" * 8 * PAGE
    thread = vm.thread_base + 1
    ticket = host.kernel.start(launch_ops(vm, thread, data), thread=thread)
    ending.close()
    assert all(result.ok for result in host.kernel.wait(ticket))
    digest = launch_digest.launch_digest([LaunchPages(BASE, data, NORMAL)], [])
    assert finish(vm, **id_fields(digest)) == OK
    vm.close()
    assert_nothing_left(host)
