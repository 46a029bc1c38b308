# SPDX-License-Identifier: GPL-2.0-only
"""Whole guests of Linux on the host under test: QEMU, OVMF, a kernel that others built."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from harness.kernel import Kernel
from harness.linuxguest import host as hosts
from harness.linuxguest.host import Starter
from harness.linuxguest.parts import Parts, parts
from harness.linuxguest.running import RunningGuest
from harness.vm.host import Host

BOOT_DEADLINE = 1300.0
"""Seconds for a test that boots a guest or two: TCG on busy cores."""


@pytest.fixture(scope="session")
def linux_parts() -> Parts:
    """Firmware, kernel and initrd: fetched now where they are not kept yet.

    `snptest` has fetched them before, with progress to look at; plain pytest has not.
    """
    return parts(say=lambda _: None)


@pytest.fixture
def starter(kernel: Kernel, linux_parts: Parts) -> Starter:
    """What starts guests on the host under test."""
    if not kernel.runs_programs:
        pytest.skip("guests of Linux are run by QEMU, this backend runs no programs: --kernel NAME")
    return Starter(kernel, hosts.qemu(kernel), linux_parts)


@pytest.fixture
def start(starter: Starter) -> Iterator[Callable[..., RunningGuest]]:
    """Starts a guest: start("quiet", vcpus=4); at the end of the test all are killed."""
    with contextlib.ExitStack() as stack:

        def started(command_line: str = "", **changes: object) -> RunningGuest:
            guest = starter.guest(command_line, **changes)
            return stack.enter_context(starter.start(guest))

        yield started


@pytest.fixture(autouse=True)
def _nothing_left(host: Host) -> Iterator[None]:
    """After a test no page is assigned to a guest, where the RMP can be looked at."""
    yield
    inspector = host.kernel.inspector
    if inspector is not None:
        left = inspector.assigned_pages()
        assert left == 0, f"{left} pages are still assigned to guests that have ended"
