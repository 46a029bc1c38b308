# SPDX-License-Identifier: GPL-2.0-only
"""A running guest with a messenger; hosts whose platform configuration is put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness.uapi import sev as sevapi
from harness.vm.guest import Guest
from harness.vm.guest_message import Messenger
from harness.vm.host import Host
from harness.vm.sevdev import SevPlatform
from suites.guest_req.messaging import VLEK_HOST, endorsement, known_chip


@pytest.fixture
def guest(host: Host) -> Iterator[Guest]:
    """A guest with one vCPU that answers commands."""
    with Guest.launch(host) as launched:
        yield launched


@pytest.fixture
def messenger(guest: Guest) -> Messenger:
    """Messages of the guest under VMPCK0."""
    return Messenger(guest.cpu())


@pytest.fixture
def platform(host: Host) -> Iterator[SevPlatform]:
    """/dev/sev, its configuration put back to the default at the end."""
    yield host.sev
    host.sev.set_config(sevapi.sev_user_data_snp_config())


@pytest.fixture
def endorsed(host: Host) -> Host:
    """The host, where the certificates of its chip are known."""
    return known_chip(host)


@pytest.fixture
def vlek_host(boot: Callable[..., Host]) -> Iterator[Host]:
    """A host of its own that has loaded a VLEK: no command takes one out again."""
    host = boot(shared=VLEK_HOST)
    if not host.sev.platform_status().vlek_en:
        hashstick = endorsement(host, "hashstick")
        if hashstick is None:
            pytest.skip("no wrapped VLEK hashstick for this host's chip")
        host.sev.vlek_load(hashstick)
    yield host
    host.sev.set_config(sevapi.sev_user_data_snp_config())
