# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.emulator.cpu import exits
from tests.cpu_guest import Bench, needs_as

pytestmark = needs_as


@pytest.fixture
def guest() -> Iterator[Bench]:
    bench = Bench(snp=True)
    yield bench
    bench.close()


def test_first_vmgexit(guest: Bench) -> None:
    source = "mov ecx, 0xc0010130; mov eax, 0x1; xor edx, edx; wrmsr; rep; vmmcall; hlt"
    assert guest.run(source) == exits.VmgExit()
    assert guest.vmcb.ghcb_gpa == 1
    assert guest.run() == exits.Hlt()
