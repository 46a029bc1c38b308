# SPDX-License-Identifier: GPL-2.0-only
"""KVM_HC_MAP_GPA_RANGE: how a guest without a GHCB asks for a page state change (x86.c, 6.12)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.uapi import kvm as uapi
from harness.vm.exits import Exit, HypercallExit
from harness.vm.guest import Guest, GuestCpu
from harness.vm.psc import PscRequest
from suites.psc.changing import BEYOND, BYTES, HUGE, PAGE, A, B, asked
from suites.psc.conftest import Keeper

pytestmark = [
    pytest.mark.patches(15),
    pytest.mark.areas("page state change", "hypercalls"),
    pytest.mark.needs("sw_protected"),
]

MAP: int = uapi.KVM_HC_MAP_GPA_RANGE
PRIVATE: int = uapi.KVM_MAP_GPA_RANGE_ENCRYPTED
SHARED: int = uapi.KVM_MAP_GPA_RANGE_DECRYPTED
U64 = (1 << 64) - 1


@pytest.fixture
def plain(keeper: Keeper) -> Iterator[Guest]:
    """A KVM_X86_SW_PROTECTED_VM with one vCPU, its memory shared."""
    yield from keeper.lend(uapi.KVM_X86_SW_PROTECTED_VM)


def watched(guest: Guest) -> list[HypercallExit]:
    """The hypercall exits from now on."""
    seen: list[HypercallExit] = []

    def watch(_: GuestCpu, reason: Exit) -> bool:
        if isinstance(reason, HypercallExit):
            seen.append(reason)
        return False

    guest.hooks.exit = watch
    return seen


@pytest.mark.parametrize("pages", [1, 3, 512, 1000])
@pytest.mark.parametrize("private", [True, False], ids=["private", "shared"])
def test_userspace_is_asked(plain: Guest, private: bool, pages: int) -> None:
    """One exit carries address, number of pages and direction; then the range is as asked."""
    seen = watched(plain)
    plain.vm.set_memory_attributes(A, pages * PAGE, private=not private)
    plain.cpu().convert(A, pages * PAGE, private=private)
    [exit] = seen
    assert (exit.nr, exit.args[:3]) == (MAP, (A, pages, PRIVATE if private else SHARED))
    last = A + (pages - 1) * PAGE
    for gpa in (A, last):
        plain.cpu().store(gpa, 0x1234 + gpa).check()
        visible = plain.vm.read_gpa(gpa, 8) == (0x1234 + gpa).to_bytes(8, "little")
        assert visible is not private


@pytest.mark.parametrize(
    "size", [uapi.KVM_MAP_GPA_RANGE_PAGE_SZ_2M, uapi.KVM_MAP_GPA_RANGE_PAGE_SZ_1G]
)
def test_page_size_is_passed_on(plain: Guest, size: int) -> None:
    """The guest's page size is for userspace to see; the number is still one of 4 KiB pages."""
    seen = watched(plain)
    assert plain.cpu().hypercall(MAP, B, 512, PRIVATE | size).check().value == 0
    assert [exit.args[:3] for exit in seen] == [(B, 512, PRIVATE | size)]
    assert asked(plain)[0].size == HUGE


@pytest.mark.parametrize(
    ("gpa", "pages"),
    [(A + 1, 1), (A + PAGE // 2, 1), (A, 0), (A, U64), (A, (1 << 64) - (A >> 12)), (U64 - 4095, 0)],
)
def test_bad_ranges(plain: Guest, gpa: int, pages: int) -> None:
    """An unaligned, empty or wrapping range is KVM_EINVAL to the guest, and nobody is asked."""
    seen = watched(plain)
    assert plain.cpu().hypercall(MAP, gpa, pages, PRIVATE).check().value == -uapi.KVM_EINVAL & U64
    assert not seen
    assert not asked(plain)


@pytest.mark.parametrize("answer", [1, 22, -1, -uapi.KVM_EINVAL, -uapi.KVM_EPERM, 0x1234_5678_9ABC])
def test_answer_reaches_the_guest(plain: Guest, answer: int) -> None:
    """What userspace answers is in the guest's RAX, all 64 bits of it."""
    plain.hooks.psc = lambda _cpu, _request: answer
    assert plain.cpu().map_gpa_range(A, PAGE, private=True).check().value == answer & U64


def test_a_refused_change_changes_nothing(plain: Guest) -> None:
    """When userspace refuses, the page is what it was, and a later request works."""
    cpu = plain.cpu()
    plain.hooks.psc = lambda _cpu, _request: -1
    cpu.map_gpa_range(A, PAGE, private=True).check()
    cpu.store(A, 0x77).check()
    assert plain.vm.read_gpa(A, 1) == b"\x77"
    plain.hooks.psc = None
    cpu.convert(A, PAGE, private=True)
    assert cpu.load(A).check().value == 0
    assert plain.vm.read_gpa(A, 1) == b"\x77"


def test_not_enabled(plain: Guest) -> None:
    """Without KVM_CAP_EXIT_HYPERCALL the guest gets KVM_ENOSYS and userspace is not asked."""
    seen = watched(plain)
    plain.vm.enable_cap(uapi.KVM_CAP_EXIT_HYPERCALL, 0)
    refused = plain.cpu().map_gpa_range(A, PAGE, private=True).check()
    assert refused.value == -uapi.KVM_ENOSYS & U64
    assert not seen
    plain.vm.enable_cap(uapi.KVM_CAP_EXIT_HYPERCALL, 1 << MAP)
    plain.cpu().convert(A, PAGE, private=True)
    assert len(seen) == 1


@pytest.mark.parametrize("bit", [0, 1, 5, 11, 13, 31, 63])
def test_unknown_hypercalls_cannot_be_enabled(plain: Guest, bit: int) -> None:
    """KVM_CAP_EXIT_HYPERCALL takes the hypercalls that it reports and no others."""
    assert plain.vm.host.extension(uapi.KVM_CAP_EXIT_HYPERCALL) == 1 << MAP
    request = uapi.kvm_enable_cap(cap=uapi.KVM_CAP_EXIT_HYPERCALL)
    for others in (0, 1 << MAP):
        request.args[0] = 1 << bit | others
        result = plain.vm.kernel.ioctl(plain.vm.fd, uapi.KVM_ENABLE_CAP, bytes(request))
        assert not result.ok


@pytest.mark.parametrize("number", [2, 4, 13, 0x1000, 0x7FFF_FFFF])
def test_unknown_hypercalls(plain: Guest, number: int) -> None:
    """A hypercall that KVM does not know is KVM_ENOSYS, and userspace is not asked."""
    seen = watched(plain)
    answer = plain.cpu().hypercall(number, A, 1, PRIVATE).check().value
    assert answer == -uapi.KVM_ENOSYS & U64
    assert not seen


def test_range_over_two_slots(plain: Guest) -> None:
    """A range that spans two slots is one request, and both parts become private."""
    cpu, vm = plain.cpu(), plain.vm
    for slot, gpa in ((5, BEYOND), (6, BEYOND + 4 * PAGE)):
        vm.add_slot(slot, gpa, 4 * PAGE, gmem=vm.create_gmem(4 * PAGE))
        cpu.store(gpa, 0x99).check()
    cpu.convert(BEYOND, 8 * PAGE, private=True)
    assert asked(plain) == [PscRequest(BEYOND, 8 * PAGE, True)]
    for gpa in (BEYOND, BEYOND + 4 * PAGE):
        assert cpu.load(gpa).check().value == 0
        assert vm.read_gpa(gpa, 1) == b"\x99"


def test_range_without_memory(plain: Guest) -> None:
    """A range that no slot covers can be converted ahead: memory added later is private."""
    cpu, vm = plain.cpu(), plain.vm
    cpu.convert(BEYOND, 4 * PAGE, private=True)
    vm.add_slot(5, BEYOND, 4 * PAGE, gmem=vm.create_gmem(4 * PAGE))
    cpu.store(BEYOND + PAGE, 3).check()
    assert vm.read_gpa(BEYOND + PAGE, 8) == bytes(8)


def test_last_page_of_memory(plain: Guest) -> None:
    """The last page of the guest's memory can be converted by itself."""
    cpu, last = plain.cpu(), BYTES - PAGE
    cpu.convert(last, PAGE, private=True)
    assert is_private_by_content(plain, last)
    assert not is_private_by_content(plain, last - PAGE)


def is_private_by_content(guest: Guest, gpa: int) -> bool:
    """Whether what the guest writes to a page does not show in its shared memory."""
    guest.vm.write_gpa(gpa, bytes(8))
    guest.cpu().store(gpa, ~0 & U64).check()
    return guest.vm.read_gpa(gpa, 8) == bytes(8)


def test_the_same_again(plain: Guest) -> None:
    """Asking for what is already so succeeds and leaves the content alone."""
    cpu = plain.cpu()
    for private in (True, False):
        cpu.convert(A, 2 * PAGE, private=private)
        cpu.fill(A, 2 * PAGE, 5, 1).check()
        cpu.convert(A, 2 * PAGE, private=private)
        assert not cpu.verify(A, 2 * PAGE, 5, 1).check().value


def test_neighbours_stay(plain: Guest) -> None:
    """A conversion touches neither the page before nor the page behind its range."""
    cpu = plain.cpu()
    cpu.convert(A, 8 * PAGE, private=True)
    cpu.fill(A, 8 * PAGE, 11, 1).check()
    cpu.convert(A + 2 * PAGE, 4 * PAGE, private=False)
    for gpa, private in ((A, True), (A + PAGE, True), (A + 6 * PAGE, True), (A + 7 * PAGE, True)):
        assert is_private_by_content(plain, gpa) is private
    assert not is_private_by_content(plain, A + 2 * PAGE)
    assert not is_private_by_content(plain, A + 5 * PAGE)
