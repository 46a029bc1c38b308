# SPDX-License-Identifier: GPL-2.0-only
"""Whole guests of Linux on the host under test: QEMU, OVMF, a kernel that others built."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.kernel import Kernel
from harness.linuxguest import host as hosts
from harness.linuxguest.host import Starter
from harness.linuxguest.parts import Parts, parts
from harness.linuxguest.running import RunningGuest
from harness.plugin import BackendOptions
from harness.vm.host import Host

BOOT_DEADLINE = 1300.0
"""Seconds for a test that boots a guest or two: TCG on busy cores."""


@pytest.fixture(scope="session")
def linux_parts(backend_options: BackendOptions) -> Parts:
    """Firmware, kernel and initrd as --firmware and --guest-kernel have it, or the defaults.

    What is not kept yet is fetched now: `snptest` has done so before, with progress to look at;
    plain pytest has not.
    """
    wanted = backend_options.firmware, backend_options.guest_kernel
    return parts(*wanted, say=lambda _: None)


@pytest.fixture
def starter(kernel: Kernel, linux_parts: Parts, backend_options: BackendOptions) -> Starter:
    """What starts guests on the host under test."""
    if not kernel.runs_programs:
        pytest.skip("guests of Linux are run by QEMU, this backend runs no programs: --kernel NAME")
    given = backend_options.guest_qemu
    return Starter(kernel, hosts.qemu(kernel, Path(given) if given else None), linux_parts)


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
