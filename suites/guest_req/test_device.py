# SPDX-License-Identifier: GPL-2.0-only
"""Who may change the platform: /dev/sev open for writing, and SNP initialised."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

import pytest

from harness.uapi import sev as sevapi
from harness.vm.host import Host
from harness.vm.results import failed
from harness.vm.sevdev import SevPlatform

pytestmark = [
    pytest.mark.patches(27, 28),
    pytest.mark.areas("attestation", "platform configuration"),
    pytest.mark.needs("snp"),
]

PAUSING = pytest.mark.needs("pause_attestation")
CHANGES = [
    pytest.param(sevapi.SNP_SET_CONFIG, errno.ENODEV, id="set config"),
    pytest.param(sevapi.SNP_VLEK_LOAD, errno.ENODEV, id="vlek load"),
    pytest.param(sevapi.SNP_PAUSE_ATTESTATION, errno.EINVAL, id="pause", marks=PAUSING),
    pytest.param(sevapi.SNP_RESUME_ATTESTATION, errno.EINVAL, id="resume", marks=PAUSING),
]
STRUCT = bytes(64)
"""As large as the largest structure of these commands."""


@pytest.fixture
def reader(host: Host) -> Iterator[SevPlatform]:
    """/dev/sev open for reading only."""
    platform = SevPlatform(host.kernel, host.interface)
    platform.fd = host.kernel.open("/dev/sev", os.O_RDONLY | os.O_CLOEXEC)
    yield platform
    host.kernel.close(platform.fd)


@pytest.mark.parametrize(("command", "without_snp"), CHANGES)
def test_reader(reader: SevPlatform, command: int, without_snp: int) -> None:
    """Who has /dev/sev open for reading cannot change the platform."""
    before = bytes(reader.platform_status())
    assert reader.call(command, STRUCT).errno == errno.EPERM
    assert bytes(reader.platform_status()) == before


@pytest.mark.needs("kvm_starts_psp")
@pytest.mark.parametrize(("command", "without_snp"), CHANGES)
def test_without_snp(boot: Callable[..., Host], command: int, without_snp: int) -> None:
    """Without SNP there is nothing to be changed, and the firmware is not asked."""
    host = boot(sev_snp=False)
    assert host.sev.call(command, STRUCT).outcome == failed(without_snp)


@pytest.mark.parametrize("command", [sevapi.SNP_RESUME_ATTESTATION + 50, 0xFFFFFFFF], ids=hex)
def test_unknown_command(host: Host, command: int) -> None:
    """A command that the driver does not know is refused."""
    assert host.sev.call(command, STRUCT).errno == errno.EINVAL
