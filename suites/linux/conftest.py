# SPDX-License-Identifier: GPL-2.0-only
"""Whole guests of Linux on the host under test: QEMU, OVMF, a kernel that others built."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from harness.kernel import Kernel
from harness.linuxguest import host as hosts
from harness.linuxguest.host import Starter
from harness.linuxguest.parts import Parts, parts
from harness.linuxguest.running import RunningGuest
from harness.target import Target
from harness.vm.host import Host
from suites.guest_req.messaging import known_chip
from suites.linux.attesting import has_driver

BOOT_DEADLINE = 1300.0
"""Seconds for a test that boots a guest or two: TCG on busy cores."""


@pytest.fixture(scope="session")
def linux_parts(target: Target) -> Parts:
    """Firmware, kernel and initrd as --firmware and --guest-kernel have it, or the defaults.

    What is not kept yet is fetched now: `snptest` has done so before, with progress to look at;
    plain pytest has not.
    """
    wanted = target.firmware, target.guest_kernel
    return parts(*wanted, say=lambda _: None)


def starter_on(kernel: Kernel, linux_parts: Parts, target: Target) -> Starter:
    """Return what starts guests on a host; skip where it cannot run QEMU."""
    if not kernel.runs_programs:
        pytest.skip("guests of Linux are run by QEMU, this backend runs no programs: --kernel NAME")
    return Starter(kernel, hosts.qemu(kernel, target.guest_qemu), linux_parts)


@pytest.fixture
def starter(kernel: Kernel, linux_parts: Parts, target: Target) -> Starter:
    """What starts guests on the host under test."""
    return starter_on(kernel, linux_parts, target)


@pytest.fixture
def start(starter: Starter) -> Iterator[Callable[..., RunningGuest]]:
    """Starts a guest: start("quiet", vcpus=4); at the end of the test all are killed.

    It is made of the run's parts, or of those that are given: start(parts=made).
    """
    with contextlib.ExitStack() as stack:

        def started(
            command_line: str = "", parts: Parts | None = None, **changes: object
        ) -> RunningGuest:
            chosen = replace(starter, parts=parts) if parts else starter
            return stack.enter_context(chosen.start(chosen.guest(command_line, **changes)))

        yield started


@pytest.fixture
def endorsed(host: Host) -> Host:
    """The host, where the certificates of its chip are known."""
    return known_chip(host)


@pytest.fixture
def attests(linux_parts: Parts) -> None:
    """Skip where the guest's kernel has no driver for attestation."""
    kernel = linux_parts.kernel
    if kernel.config is not None and not has_driver(kernel.config.read_text()):
        pytest.skip(f"the guest's kernel {kernel.release} has no /dev/sev-guest with configfs tsm")


@pytest.fixture(autouse=True)
def _nothing_left(host: Host) -> Iterator[None]:
    """After a test no page is assigned to a guest, where the RMP can be looked at."""
    yield
    inspector = host.kernel.inspector
    if inspector is not None:
        left = inspector.assigned_pages()
        assert left == 0, f"{left} pages are still assigned to guests that have ended"
