# SPDX-License-Identifier: GPL-2.0-only
"""KVM_SEV_SNP_LAUNCH_UPDATE: page types, progress, and every way to be refused."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from harness.inspector import RmpSize
from harness.operations import Ticket
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.uapi.errors import SevFwError
from harness.vm.gmem import GuestMemfd
from harness.vm.host import Host
from harness.vm.results import OK, SevResult, failed
from harness.vm.vm import Vm
from suites.launch.launching import (
    BASE,
    NORMAL,
    PAGE,
    PAGE_TYPES,
    PAGES,
    ZERO,
    add_private,
    command_at,
    finish,
    init2,
    start,
    update,
    update_once,
)

pytestmark = [
    pytest.mark.patches(11),
    pytest.mark.areas("launch", "launch update"),
    pytest.mark.needs("snp"),
]

BAD_ADDRESS = 0x1000


def returned(vm: Vm, result: SevResult) -> Any:
    """The structure of LAUNCH_UPDATE as KVM left it."""
    return vm.interface.launch_update.struct.from_buffer_copy(result.data)


def assigned(gmem: GuestMemfd) -> list[int]:
    """Which pages of a guest_memfd the RMP assigns to a guest."""
    inspector = gmem.kernel.inspector
    assert inspector is not None
    states = [inspector.gmem_rmp(gmem.fd, at * PAGE) for at in range(gmem.size // PAGE)]
    return [at for at, state in enumerate(states) if state.assigned]


# -- what it does --------------------------------------------------------------------------


@pytest.mark.parametrize("type", PAGE_TYPES.values(), ids=PAGE_TYPES)
def test_page_types(started: Vm, type: int) -> None:
    """A page of every type can be loaded."""
    assert update(started, BASE, type) == OK


@pytest.mark.needs("inspector")
@pytest.mark.parametrize("type", PAGE_TYPES.values(), ids=PAGE_TYPES)
def test_pages_become_the_guests(started: Vm, gmem: GuestMemfd, type: int) -> None:
    """A loaded page is assigned to the guest's ASID at its GPA, validated, 4 KiB."""
    inspector = started.kernel.inspector
    assert inspector is not None
    assert update(started, BASE + 2 * PAGE, type) == OK
    assert assigned(gmem) == [2]
    state = inspector.gmem_rmp(gmem.fd, 2 * PAGE)
    assert state == replace(state, gpa=BASE + 2 * PAGE, validated=True, size=RmpSize.SIZE_4K)
    assert state.asid > 0


@pytest.mark.needs("inspector")
def test_guests_have_asids_of_their_own(host: Host, started: Vm, gmem: GuestMemfd) -> None:
    """Two guests that live at once never share an ASID."""
    inspector = started.kernel.inspector
    assert inspector is not None
    with host.create_vm(uapi.KVM_X86_SNP_VM) as other:
        other.sev_init2()
        other_gmem = add_private(other)
        other.launch_start()
        assert update(started) == OK
        assert update(other) == OK
        mine, theirs = (inspector.gmem_rmp(file.fd, 0) for file in (gmem, other_gmem))
        assert mine.asid != theirs.asid


@pytest.mark.needs("inspector")
def test_many_pages_at_once(initialised: Vm) -> None:
    """One command loads a range of a thousand pages."""
    gmem = add_private(initialised, 1024)
    initialised.launch_start()
    initialised.launch_update(BASE, 0, ZERO, length=1000 * PAGE)
    assert assigned(gmem) == list(range(1000))


def test_zero_pages_need_no_source(started: Vm) -> None:
    """Zero pages are loaded without looking at the source address."""
    assert update(started, BASE, ZERO, source=0, length=2 * PAGE) == OK
    gpa = BASE + 2 * PAGE
    assert update(started, gpa, ZERO, source=BAD_ADDRESS, length=PAGE) == OK


def test_source_need_not_be_aligned(started: Vm) -> None:
    """The source may lie anywhere in the process's memory, or must be aligned (Linux 7.0)."""
    source = started.stage(bytes(2 * PAGE))
    anywhere = OK if started.interface.update_any_source else failed(errno.EINVAL)
    for number, offset in enumerate((0x123, 1, PAGE - 1), 1):
        gpa = BASE + number * PAGE
        assert update(started, gpa, source=source + offset, length=PAGE) == anywhere
    assert update(started, source=source, length=PAGE) == OK


def test_zero_length(started: Vm) -> None:
    """An empty range loads nothing, as an error or without: the page can still be loaded."""
    empty = OK if started.interface.update_any_source else failed(errno.EINVAL)
    assert update(started, data=b"") == empty
    assert update(started) == OK


# -- progress ------------------------------------------------------------------------------


@pytest.mark.needs("update_writes_progress")
def test_progress_is_written_back(started: Vm) -> None:
    """gfn_start, uaddr and len come back advanced past what was loaded."""
    source = started.stage(bytes(3 * PAGE))
    left = returned(started, update_once(started, source=source, length=3 * PAGE))
    assert (left.gfn_start, left.uaddr, left.len) == (BASE // PAGE + 3, source + 3 * PAGE, 0)


@pytest.mark.needs("update_writes_progress")
def test_progress_of_zero_pages(started: Vm) -> None:
    """Of zero pages only gfn_start and len advance; they have no source."""
    result = update_once(started, BASE, ZERO, source=0x5000, length=3 * PAGE)
    left = returned(started, result)
    assert (left.gfn_start, left.uaddr, left.len) == (BASE // PAGE + 3, 0x5000, 0)


@pytest.mark.needs("update_writes_progress")
def test_range_over_two_slots(initialised: Vm) -> None:
    """A range that goes on in the next slot is loaded with one call for each slot."""
    add_private(initialised, 4)
    add_private(initialised, 4, slot=1, gpa=BASE + 4 * PAGE)
    initialised.launch_start()
    source = initialised.stage(bytes(8 * PAGE))
    left = returned(initialised, update_once(initialised, source=source, length=8 * PAGE))
    assert (left.gfn_start, left.uaddr) == (BASE // PAGE + 4, source + 4 * PAGE)
    assert left.len == 4 * PAGE
    again = update_once(initialised, BASE + 4 * PAGE, source=left.uaddr, length=left.len)
    assert again.errno == 0
    assert returned(initialised, again).len == 0


@pytest.mark.needs("update_writes_progress")
def test_range_that_ends_behind_the_slot(initialised: Vm) -> None:
    """What lies behind the slot stays to be done, and is refused when its turn comes."""
    add_private(initialised, 4)
    initialised.set_memory_attributes(BASE, 8 * PAGE, private=True)
    initialised.launch_start()
    result = update_once(initialised, BASE + PAGE, ZERO, source=0, length=6 * PAGE)
    left = returned(initialised, result)
    assert result.errno == 0
    assert (left.gfn_start, left.len) == (BASE // PAGE + 4, 3 * PAGE)
    beyond = update(initialised, BASE + 4 * PAGE, ZERO, source=0, length=left.len)
    assert beyond == failed(errno.EINVAL)


@pytest.mark.needs("update_writes_progress")
def test_failure_behind_the_first_page(started: Vm) -> None:
    """Pages before a failure count as done; only a failure at the first page is reported."""
    assert update(started, BASE + 3 * PAGE) == OK
    result = update_once(started, BASE, ZERO, source=0, length=6 * PAGE)
    assert result.errno == 0
    left = returned(started, result)
    assert (left.gfn_start, left.len) == (BASE // PAGE + 3, 3 * PAGE)
    rest = update(started, BASE + 3 * PAGE, ZERO, source=0, length=3 * PAGE)
    assert rest == failed(started.interface.update_assigned_errno)


@pytest.mark.needs("update_writes_progress")
def test_signal_in_the_middle(initialised: Vm) -> None:
    """A signal ends a batch early with success; the structure says where to go on."""
    npages = 4096
    add_private(initialised, npages)
    initialised.launch_start()
    kernel, command = initialised.kernel, initialised.interface.launch_update
    thread = initialised.thread_base + 1
    struct: Any = initialised.update_struct(BASE, 0, npages * PAGE, ZERO)
    ops = initialised.sev_ops(command.id, bytes(struct), thread=thread)
    ticket: Ticket = kernel.start(ops, thread=thread)
    for _ in range(5):
        kernel.ioctl(initialised.host.fd, uapi.KVM_GET_API_VERSION)
    kernel.interrupt(thread)
    result = initialised.sev_result(kernel.wait(ticket), bytes(struct), thread=thread)
    assert result.errno in (0, started_too_late(initialised))
    left = returned(initialised, result)
    done = left.gfn_start - BASE // PAGE
    assert left.len == (npages - done) * PAGE
    assert done < npages, "the signal was not looked at"
    # Ten pages more: the next one is not loaded yet, those before are.
    at = BASE + done * PAGE
    more = update_once(initialised, at, ZERO, source=0, length=min(10, npages - done) * PAGE)
    assert more.errno == 0
    for loaded in {BASE, at - PAGE} if done else ():
        assert update(initialised, loaded).errno == initialised.interface.update_assigned_errno


def started_too_late(vm: Vm) -> int:
    """Errno where the signal was there before the first page."""
    return vm.interface.update_errno or errno.EINTR


# -- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize("type", [0, sevapi.SNP_PAGE_TYPE_VMSA, 7, 8, 0x80, 0xFF])
def test_bad_type(started: Vm, type: int) -> None:
    """Page types that userspace may not load are refused by KVM, that of VMSAs included."""
    assert update(started, BASE, type) == failed(errno.EINVAL)
    assert update(started) == OK


@pytest.mark.needs("launch_flags")
def test_flags_must_be_zero(started: Vm) -> None:
    """Each of the 16 flags is refused."""
    for bit in range(16):
        assert update(started, flags=1 << bit) == failed(errno.EINVAL), f"flag {bit}"
    assert update(started) == OK


@pytest.mark.parametrize("length", [1, 0x800, PAGE - 1, PAGE + 1])
def test_length_that_is_not_whole_pages(started: Vm, length: int) -> None:
    """A length that is not a multiple of 4 KiB is refused."""
    assert update(started, data=bytes(2 * PAGE), length=length) == failed(errno.EINVAL)
    assert update(started) == OK


def test_before_init2_and_start(vm: Vm) -> None:
    """LAUNCH_UPDATE without a launch is refused."""
    add_private(vm)
    assert update(vm) == failed(errno.EINVAL)
    assert init2(vm) == OK
    assert update(vm) == failed(errno.EINVAL)
    assert start(vm) == OK
    assert update(vm) == OK


def test_memory_that_is_not_private(started: Vm) -> None:
    """A page without the private attribute is refused and stays with the host."""
    started.set_memory_attributes(BASE, PAGE, private=False)
    assert update(started) == failed(started.interface.update_not_private_errno)
    started.set_memory_attributes(BASE, PAGE, private=True)
    assert update(started) == OK


@pytest.mark.parametrize("gpa", [0, BASE - PAGE, BASE + PAGES * PAGE, 1 << 45, (1 << 52) - PAGE])
def test_no_slot(started: Vm, gpa: int) -> None:
    """A page that no slot holds is refused."""
    assert update(started, gpa) == failed(errno.EINVAL)


def test_frame_number_beyond_all_memory(started: Vm) -> None:
    """A gfn whose address has no 64 bits is refused."""
    source = started.stage(bytes(PAGE))
    command = started.interface.launch_update
    struct: Any = started.update_struct(0, source, PAGE, NORMAL)
    for gfn in (1 << 52, (1 << 64) - 1):
        struct.gfn_start = gfn
        assert started.sev_call(command.id, struct).errno == errno.EINVAL


def test_slot_without_guest_memfd(started: Vm) -> None:
    """A slot that has no private memory is refused, whatever the attributes say."""
    gpa = 4 << 20
    started.add_slot(1, gpa, 4 * PAGE)
    started.set_memory_attributes(gpa, 4 * PAGE, private=True)
    assert update(started, gpa) == failed(errno.EINVAL)


def test_unreadable_structure(started: Vm) -> None:
    """A structure that cannot be read is EFAULT."""
    command = started.interface.launch_update.id
    assert command_at(started, command, BAD_ADDRESS) == failed(errno.EFAULT)


def test_unreadable_source(started: Vm) -> None:
    """A source that cannot be read is refused, and the page can be loaded afterwards."""
    expected = started.interface.update_errno or errno.EFAULT
    assert update(started, source=BAD_ADDRESS, length=PAGE) == failed(expected)
    assert update(started) == OK


@pytest.mark.parametrize("name", sorted(PAGE_TYPES.keys() - {"zero"}))
def test_no_source(started: Vm, name: str) -> None:
    """A page with content needs a source, and asking without one makes no kernel warn."""
    outcome = update(started, BASE, PAGE_TYPES[name], source=0, length=PAGE)
    if not started.interface.update_any_source:
        assert outcome == failed(errno.EINVAL)
    errnos = (started.interface.update_errno, errno.EINVAL, errno.EFAULT)
    assert outcome in [failed(each) for each in errnos if each is not None]


def test_already_assigned(started: Vm) -> None:
    """A zero page over a page of the guest is no second page of it."""
    assert update(started) == OK
    expected = failed(started.interface.update_assigned_errno)
    assert update(started, BASE, ZERO, source=0, length=PAGE) == expected


@pytest.mark.needs("update_assigned_errno")
@pytest.mark.parametrize("type", PAGE_TYPES.values(), ids=PAGE_TYPES)
def test_already_assigned_by_type(started: Vm, type: int) -> None:
    """A page of the guest cannot be loaded again, whatever the type."""
    assert update(started) == OK
    expected = failed(started.interface.update_assigned_errno)
    assert update(started, BASE, type, data=b"\xa5" * PAGE) == expected


@pytest.mark.needs("inspector")
def test_already_assigned_keeps_its_content(started: Vm, gmem: GuestMemfd) -> None:
    """What the guest has in a page survives the attempt to load it again."""
    inspector = started.kernel.inspector
    assert inspector is not None
    assert update(started, data=b"\x5a" * PAGE) == OK
    before = inspector.gmem_bytes(gmem.fd, 0, PAGE)
    update(started, BASE, ZERO, source=0, length=PAGE)
    assert inspector.gmem_bytes(gmem.fd, 0, PAGE) == before
    assert assigned(gmem) == [0]


def test_descriptor_that_is_not_dev_sev(started: Vm) -> None:
    """Without /dev/sev the page is given back to the host, and can be loaded with it."""
    expected = started.interface.update_errno or errno.EBADF
    assert update(started, sev_fd=-1).errno == expected
    assert update(started, sev_fd=started.fd).errno == expected
    assert update(started) == OK


@pytest.mark.needs("inspector")
def test_refused_pages_go_back_to_the_host(started: Vm, gmem: GuestMemfd) -> None:
    """After every kind of refusal the RMP assigns no page to the guest."""
    update(started, sev_fd=-1)
    update(started, source=BAD_ADDRESS, length=PAGE)
    update(started, BASE, 7)
    update(started, length=PAGE - 1)
    update(started, BASE, sevapi.KVM_SEV_SNP_PAGE_TYPE_CPUID, data=b"\xff" * PAGE)
    assert assigned(gmem) == []


def test_after_finish(finished: Vm) -> None:
    """The firmware refuses pages for a guest that is launched, and the page goes back."""
    expected = failed(finished.interface.update_firmware_errno, SevFwError.INVALID_GUEST_STATE)
    for type in PAGE_TYPES.values():
        assert update(finished, BASE + 8 * PAGE, type) == expected
    assert finish(finished) != OK


def test_other_vm_types(host: Host) -> None:
    """LAUNCH_UPDATE is refused on a VM that protects its memory in software only."""
    if uapi.KVM_X86_SW_PROTECTED_VM not in host.vm_types:
        pytest.skip("this kernel has no KVM_X86_SW_PROTECTED_VM")
    with host.create_vm(uapi.KVM_X86_SW_PROTECTED_VM) as vm:
        add_private(vm)
        assert update(vm) == failed(errno.EINVAL)
