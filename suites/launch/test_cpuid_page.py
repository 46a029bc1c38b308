# SPDX-License-Identifier: GPL-2.0-only
"""CPUID and secrets pages, and the content of all others, as the guest finds them."""

from __future__ import annotations

import ctypes

import pytest

from harness.uapi.errors import SevFwError
from harness.uapi.guest_message import snp_cpuid_fn, snp_cpuid_table
from harness.vm import boot, layout
from harness.vm.host import Host
from harness.vm.results import OK, CallResult, failed
from harness.vm.vm import Vm
from suites.launch.launching import (
    BASE,
    CPUID,
    NORMAL,
    PAGE,
    UNMEASURED,
    ZERO,
    launch_guest,
    update,
)

pytestmark = [
    pytest.mark.patches(11),
    pytest.mark.areas("launch", "launch update", "cpuid page"),
    pytest.mark.needs("snp"),
]

XCR0 = 0x207
VMPCK_OFFSET = 0x20
"""First VMPCK in the secrets page; four of 32 bytes (56860, secrets page)."""


def table(*leaves: snp_cpuid_fn, count: int | None = None) -> bytes:
    """A CPUID page with these leaves."""
    made = snp_cpuid_table(count=len(leaves) if count is None else count)
    for index, leaf in enumerate(leaves):
        made.fn[index] = leaf
    return bytes(made).ljust(PAGE, b"\0")


def refused(vm: Vm) -> CallResult:
    """How a page that the firmware corrected is refused."""
    return failed(vm.interface.update_firmware_errno, SevFwError.INVALID_PARAM)


BAD_LEAVES = {
    "TSC deadline timer": snp_cpuid_fn(eax_in=1, ecx=1 << 24 | 1),
    "TSC_ADJUST": snp_cpuid_fn(eax_in=7, ebx=1 << 1 | 1 << 20),
    "virtual SSBD": snp_cpuid_fn(eax_in=0x80000008, ebx=1 << 25),
    "size of the XSAVE area": snp_cpuid_fn(eax_in=0xD, xcr0_in=XCR0, ebx=0x1234),
}


@pytest.mark.parametrize("leaf", BAD_LEAVES.values(), ids=BAD_LEAVES)
def test_bad_leaf_comes_back_corrected(started: Vm, leaf: snp_cpuid_fn) -> None:
    """Firmware refuses a leaf that promises too much; its correction is accepted at once."""
    good = snp_cpuid_fn(eax_in=0x80000000, eax=0x80000021)
    page = table(good, leaf)
    source = started.stage(page)
    assert update(started, BASE, CPUID, source=source, length=PAGE) == refused(started)
    corrected = started.kernel.read(source, PAGE)
    offset, size = snp_cpuid_table.fn.offset, ctypes.sizeof(snp_cpuid_fn)
    assert corrected != page
    assert corrected[: offset + size] == page[: offset + size], "the good leaf was touched"
    assert corrected[offset + 2 * size :] == page[offset + 2 * size :]
    assert update(started, BASE, CPUID, source=source, length=PAGE) == OK


def test_too_many_leaves(started: Vm) -> None:
    """A count beyond the 64 leaves of the page is corrected to 64."""
    source = started.stage(table(count=65))
    assert update(started, BASE, CPUID, source=source, length=PAGE) == refused(started)
    corrected = snp_cpuid_table.from_buffer_copy(started.kernel.read(source, PAGE))
    assert corrected.count == 64


def test_good_page_is_left_alone(started: Vm) -> None:
    """A page that the firmware accepts at once does not come back changed."""
    page = table(snp_cpuid_fn(eax_in=0x80000000, eax=0x80000021))
    source = started.stage(page)
    assert update(started, BASE, CPUID, source=source, length=PAGE) == OK
    assert started.kernel.read(source, PAGE) == page


@pytest.mark.parametrize("leaf", [0x40000000, 0x40000001, 0x1234_5678], ids=hex)
def test_functions_of_hypervisors_pass(started: Vm, leaf: int) -> None:
    """Functions outside the two ranges that firmware knows, such as KVM's, pass as they are."""
    page = table(
        snp_cpuid_fn(eax_in=0x80000000, eax=0x80000021),
        snp_cpuid_fn(eax_in=leaf, eax=0x40000001, ebx=0x4B4D564B, ecx=0x564B4D56, edx=0x4D),
    )
    source = started.stage(page)
    assert update(started, BASE, CPUID, source=source, length=PAGE) == OK
    assert started.kernel.read(source, PAGE) == page


def test_other_failures_do_not_touch_the_source(finished: Vm) -> None:
    """Only a corrected page is written back: another refusal leaves the source as it was."""
    page = table(BAD_LEAVES["TSC deadline timer"])
    source = finished.stage(page)
    outcome = update(finished, BASE + 8 * PAGE, CPUID, source=source, length=PAGE)
    assert outcome.fw_error == SevFwError.INVALID_GUEST_STATE
    assert finished.kernel.read(source, PAGE) == page


def test_other_types_are_not_written_back(finished: Vm) -> None:
    """A refused page of another type leaves the source as it was."""
    page = b"\x77" * PAGE
    source = finished.stage(page)
    assert update(finished, BASE + 8 * PAGE, source=source, length=PAGE) != OK
    assert finished.kernel.read(source, PAGE) == page


def test_guest_reads_the_cpuid_page(host: Host) -> None:
    """The guest finds the CPUID page that the firmware accepted, validated."""
    with launch_guest(host) as guest:
        [launched] = [part for part in guest.pages if part.type == CPUID]
        read = guest.cpu().read(layout.CPUID_GPA, PAGE)
    assert snp_cpuid_table.from_buffer_copy(read).count
    assert read == launched.data


def test_guest_reads_what_was_loaded(host: Host) -> None:
    """Content of normal and unmeasured pages is the guest's, without PVALIDATE; zero is zero."""
    gpa = layout.FREE_GPA
    normal, unmeasured = bytes(range(256)) * 16, bytes(reversed(range(256))) * 16
    extra = [
        boot.LaunchPages(gpa, normal, NORMAL),
        boot.LaunchPages(gpa + PAGE, unmeasured, UNMEASURED),
        boot.LaunchPages(gpa + 2 * PAGE, b"\xee" * PAGE, ZERO),
        boot.LaunchPages(gpa + 3 * PAGE, normal + unmeasured, NORMAL),
    ]
    with launch_guest(host, extra=extra) as guest:
        cpu = guest.cpu()
        assert cpu.read(gpa, PAGE) == normal
        assert cpu.read(gpa + PAGE, PAGE) == unmeasured
        assert cpu.read(gpa + 2 * PAGE, PAGE) == bytes(PAGE)
        assert cpu.read(gpa + 3 * PAGE, 2 * PAGE) == normal + unmeasured
        assert guest.psc_requests == []


def test_secrets_page_is_the_firmwares(host: Host) -> None:
    """The secrets page holds the firmware's four keys, different in each guest."""
    pages = []
    for _ in range(2):
        with launch_guest(host) as guest:
            pages.append(guest.cpu().read(layout.SECRETS_GPA, PAGE))
    keys = [
        page[VMPCK_OFFSET + 32 * level : VMPCK_OFFSET + 32 * (level + 1)]
        for page in pages
        for level in range(4)
    ]
    assert len(set(keys)) == 8
    assert bytes(32) not in keys
    for page in pages:
        assert int.from_bytes(page[:4], "little") in (2, 3), "version of the secrets page"
