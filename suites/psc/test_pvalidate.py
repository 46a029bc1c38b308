# SPDX-License-Identifier: GPL-2.0-only
"""PVALIDATE as the guest sees it: result codes, the carry flag, and what may be accessed."""

from __future__ import annotations

import pytest

from harness.uapi.sev import PVALIDATE_FAIL_SIZEMISMATCH
from harness.vm.exits import MemoryFaultExit
from harness.vm.guest import Guest
from harness.vm.mailbox import Op
from suites.psc.changing import FAIL_INPUT, HUGE, PAGE, A, B, validate_2m

pytestmark = [
    pytest.mark.patches(14, 15, 16),
    pytest.mark.areas("page state change", "PVALIDATE"),
    pytest.mark.needs("snp"),
]

RESCIND = False


def test_carry_flag(guest: Guest) -> None:
    """CF is set exactly where PVALIDATE changed nothing, for both directions."""
    cpu = guest.cpu()
    for validate, carry in ((True, 0), (True, 1), (RESCIND, 0), (RESCIND, 1), (True, 0)):
        result = cpu.pvalidate(A, validate=validate).check()
        assert result.values[:4] == (0, carry, 1, 1 - carry)


def test_carry_flag_2m(guest: Guest) -> None:
    """CF is set exactly where PVALIDATE of 2 MiB changed nothing."""
    validate_2m(guest, A)
    cpu = guest.cpu()
    for validate, carry in ((True, 1), (RESCIND, 0), (RESCIND, 1), (True, 0)):
        result = cpu.pvalidate(A, HUGE, validate, large=True).check()
        assert result.values[:4] == (0, carry, 1, 1 - carry)


@pytest.mark.parametrize("offset", [PAGE, HUGE // 2, HUGE - PAGE])
@pytest.mark.parametrize("validate", [True, False])
def test_misaligned_2m(guest: Guest, offset: int, validate: bool) -> None:
    """PVALIDATE of 2 MiB at an address that is not aligned is FAIL_INPUT and changes nothing."""
    result = guest.cpu().pvalidate(A + offset, HUGE, validate, large=True).check()
    assert (result.value, result.values[2]) == (FAIL_INPUT, 0)
    assert guest.cpu().load(A + offset).not_validated


def test_size_mismatch(guest: Guest) -> None:
    """PVALIDATE of 2 MiB is SIZEMISMATCH where the RMP has 4 KiB; those work one by one."""
    cpu = guest.cpu()
    cpu.convert(A + PAGE, PAGE, private=False)
    cpu.pvalidate(A).check()
    cpu.convert(A + PAGE, PAGE, private=True)
    result = cpu.pvalidate(A, HUGE, large=True).check()
    assert (result.value, result.values[2]) == (PVALIDATE_FAIL_SIZEMISMATCH, 0)
    result = cpu.pvalidate(A, HUGE).check()
    assert (result.value, result.values[2:4]) == (0, (512, 511))


def test_4k_in_2m(guest: Guest) -> None:
    """PVALIDATE of 4 KiB in a 2 MiB page has the host split it, and changes that page only."""
    cpu = guest.cpu()
    validate_2m(guest, A)
    cpu.store(A + 2 * PAGE, 0x77).check()
    result = cpu.pvalidate(A + PAGE, validate=RESCIND).check()
    assert result.values[:4] == (0, 0, 1, 1)
    assert cpu.load(A + PAGE).not_validated
    assert cpu.load(A + 2 * PAGE).check().value == 0x77
    assert cpu.pvalidate(A, HUGE, large=True).check().value == PVALIDATE_FAIL_SIZEMISMATCH


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_not_validated(guest: Guest, write: bool) -> None:
    """An access to private memory before it was validated, or after, raises #VC 0x404."""
    cpu = guest.cpu()

    def touch() -> bool:
        return (cpu.store(A, 1) if write else cpu.load(A)).not_validated

    assert touch()
    cpu.pvalidate(A).check()
    assert not touch()
    cpu.pvalidate(A, validate=RESCIND).check()
    assert touch()


def test_neighbours_stay(guest: Guest) -> None:
    """Validation of a page leaves those beside it as they are."""
    cpu = guest.cpu()
    cpu.convert(B, PAGE, private=False)
    cpu.convert(B, PAGE, private=True)
    cpu.pvalidate(B + PAGE).check()
    assert cpu.load(B).not_validated
    assert cpu.load(B + 2 * PAGE).not_validated
    assert cpu.load(B + PAGE).ok


def test_shared_page(guest: Guest) -> None:
    """PVALIDATE of a page that is shared leaves to userspace as a private memory fault."""
    cpu = guest.cpu()
    cpu.convert(A, PAGE, private=False)
    result = cpu.pvalidate(A)
    assert isinstance(result.exit, MemoryFaultExit)
    assert (result.exit.gpa, result.exit.private) == (A, True)


def test_implicit_conversion(guest: Guest) -> None:
    """Userspace may convert on a memory fault; the access is then tried again."""
    cpu = guest.cpu()
    cpu.convert(A, PAGE, private=False)

    def convert(_: object, fault: MemoryFaultExit) -> bool:
        guest.vm.set_memory_attributes(fault.gpa, PAGE, private=fault.private)
        return True

    guest.hooks.memory_fault = convert
    assert cpu.pvalidate(A).check().values[:2] == (0, 0)
    cpu.store(A, 5).check()
    cpu.store(A, 6, private=False).check()
    assert guest.vm.read_gpa(A, 1) == b"\6"
    assert cpu.load(A).check().value == 5


def test_only_bit_0_of_its_operands_counts(guest: Guest) -> None:
    """PVALIDATE looks at bit 0 of page size and of what is wanted, whatever else is set there."""
    cpu = guest.cpu()
    result = cpu.call(Op.PVALIDATE, A, 0xFE, 0xFF, 1).check()
    assert result.values[:3] == (0, 0, 1)
    cpu.store(A, 5).check()
    assert cpu.call(Op.PVALIDATE, A, 2, 0xFE, 1).check().values[:3] == (0, 0, 1)
    assert cpu.call(Op.PVALIDATE, A, 0, 0, 1).check().values[:2] == (0, 1), "it was valid still"
