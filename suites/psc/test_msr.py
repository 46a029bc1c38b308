# SPDX-License-Identifier: GPL-2.0-only
"""Page state changes by the GHCB MSR protocol: one page of 4 KiB at a time."""

from __future__ import annotations

import errno

import pytest

from harness.uapi import ghcb as abi
from harness.uapi import kvm as uapi
from harness.vm.exits import MemoryFaultExit, RunError
from harness.vm.guest import Guest, GuestCpu
from harness.vm.psc import PscOp, PscRequest
from suites.psc.changing import BEYOND, PAGE, A, B, asked, is_private, msr

pytestmark = [
    pytest.mark.patches(14),
    pytest.mark.areas("page state change", "MSR protocol"),
    pytest.mark.needs("snp"),
]

DONE = abi.GHCB_MSR_PSC_RESP
ERROR = abi.GHCB_MSR_PSC_RESP_ERROR


def _change(guest: Guest, value: int) -> int:
    return guest.cpu().vmgexit_msr(value).check().value


def test_both_ways(guest: Guest) -> None:
    """A page becomes shared, and private again, and the guest is told that it is."""
    assert is_private(guest, A)
    assert _change(guest, msr(A, PscOp.SHARED)) == DONE
    assert not is_private(guest, A)
    assert is_private(guest, A + PAGE)
    assert _change(guest, msr(A, PscOp.PRIVATE)) == DONE
    assert is_private(guest, A)


@pytest.mark.parametrize("op", [PscOp.PRIVATE, PscOp.SHARED])
@pytest.mark.parametrize("gpa", [A, B - PAGE, BEYOND, (1 << 40) - PAGE])
def test_userspace_is_asked(guest: Guest, gpa: int, op: PscOp) -> None:
    """Userspace is asked once, for that page of 4 KiB and that direction."""
    guest.hooks.psc = lambda cpu, request: 0
    assert _change(guest, msr(gpa, op)) == DONE
    assert asked(guest) == [PscRequest(gpa, PAGE, op is PscOp.PRIVATE)]


@pytest.mark.parametrize("gpa", [1 << 32, 1 << 40 | A, (1 << 52) - PAGE], ids=hex)
@pytest.mark.parametrize("op", [PscOp.PRIVATE, PscOp.SHARED])
def test_high_addresses(guest: Guest, gpa: int, op: PscOp) -> None:
    """All 52 bits of an address reach userspace."""
    guest.hooks.psc = lambda *_: 0
    assert _change(guest, msr(gpa, op)) == DONE
    assert asked(guest) == [PscRequest(gpa, PAGE, op is PscOp.PRIVATE)]


def test_page_of_no_slot(guest: Guest) -> None:
    """A page without memory behind it can be made private, but not be accessed."""
    assert _change(guest, msr(BEYOND, PscOp.PRIVATE)) == DONE
    result = guest.cpu().load(BEYOND)
    assert isinstance(result.exit, MemoryFaultExit)
    assert (result.exit.gpa, result.exit.private) == (BEYOND, True)


@pytest.mark.parametrize("op", [0, 3, 4, 5, 7, 8, 15])
def test_bad_operation(guest: Guest, op: int) -> None:
    """Operations other than private and shared fail without userspace being asked."""
    assert _change(guest, msr(A, op)) == ERROR
    assert not asked(guest)
    assert is_private(guest, A)
    assert _change(guest, msr(A, PscOp.SHARED)) == DONE


@pytest.mark.parametrize("bit", range(56, 64))
def test_reserved_bits(guest: Guest, bit: int) -> None:
    """Bits 63:56 of a request take no part in what is asked for, nor show in the answer."""
    assert _change(guest, msr(A, PscOp.SHARED) | 1 << bit) == DONE
    assert asked(guest) == [PscRequest(A, PAGE, private=False)]


@pytest.mark.parametrize("error", [1, -1, -22, 1 << 32, errno.EINVAL, errno.EAGAIN])
def test_userspace_refuses(guest: Guest, error: int) -> None:
    """When userspace fails the guest gets an error; the page stays, and can be changed later.

    Since Linux 7.1 only EINVAL and EAGAIN do so; any other answer fails KVM_RUN with EINVAL.
    """
    guest.hooks.psc = lambda cpu, request: error
    interface = guest.vm.interface
    if error >> 32 == 1 and interface.userspace_walks_psc_lists:
        pytest.skip("the answer of an MSR request is 32 bits wide")
    if interface.psc_results is not None and error not in interface.psc_results:
        guest.cpu().vmgexit_msr(msr(A, PscOp.SHARED))
        assert guest.cpu().stopped == RunError(errno.EINVAL)
        return
    assert _change(guest, msr(A, PscOp.SHARED)) == ERROR
    assert is_private(guest, A)
    guest.hooks.psc = None
    assert _change(guest, msr(A, PscOp.SHARED)) == DONE
    assert not is_private(guest, A)


@pytest.mark.needs("kernel_walks_psc_lists")
def test_hypercall_exits_off(guest: Guest) -> None:
    """Without KVM_CAP_EXIT_HYPERCALL a request fails and userspace is not asked."""
    guest.vm.enable_cap(uapi.KVM_CAP_EXIT_HYPERCALL, 0)
    assert _change(guest, msr(A, PscOp.SHARED)) == ERROR
    assert not asked(guest)
    guest.vm.enable_cap(uapi.KVM_CAP_EXIT_HYPERCALL, 1 << uapi.KVM_HC_MAP_GPA_RANGE)
    assert _change(guest, msr(A, PscOp.SHARED)) == DONE


def test_answer_comes_late(guest: Guest) -> None:
    """The guest goes on only after userspace has answered, with the page as it then is."""
    word = 0x1122334455667788

    def fill_first(cpu: GuestCpu, request: PscRequest) -> int:
        guest.vm.write_gpa(request.gpa, word.to_bytes(8, "little"))
        return guest.convert(request)

    guest.hooks.psc = fill_first
    assert _change(guest, msr(A, PscOp.SHARED)) == DONE
    assert guest.cpu().load(A, private=False).check().value == word


def test_many_pages(guest: Guest) -> None:
    """A hundred pages in turn are each changed, and none of their neighbours."""
    for gpa in range(A, A + 200 * PAGE, 2 * PAGE):
        assert _change(guest, msr(gpa, PscOp.SHARED)) == DONE
    wanted = [PscRequest(gpa, PAGE, False) for gpa in range(A, A + 200 * PAGE, 2 * PAGE)]
    assert asked(guest) == wanted
    assert not is_private(guest, A + 198 * PAGE)
    assert is_private(guest, A + 199 * PAGE)
