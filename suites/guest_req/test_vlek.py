# SPDX-License-Identifier: GPL-2.0-only
"""SNP_VLEK_LOAD: reports signed by the versioned loaded endorsement key."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from typing import Any

import pytest

from harness.uapi import sev as sevapi
from harness.uapi.errors import SevFwError
from harness.vm.attestation import (
    SIGNED_BY_VCEK,
    SIGNED_BY_VLEK,
    VerificationError,
    verify_chain,
)
from harness.vm.guest import Guest
from harness.vm.guest_message import Messenger, report_request
from harness.vm.host import Host
from harness.vm.results import CallResult, attempt, failed
from suites.guest_req.messaging import (
    VCEK,
    VLEK,
    VLEK_HOST,
    certificate,
    endorsement,
    report_of,
    report_status,
)

pytestmark = [
    pytest.mark.patches(27),
    pytest.mark.areas("attestation", "vlek"),
    pytest.mark.needs("snp"),
]

SIZE = 432


@pytest.fixture
def hashstick(host: Host) -> bytes:
    """A wrapped VLEK hashstick for the host's chip; tests of refusals only."""
    blob = endorsement(host, "hashstick")
    if blob is None:
        pytest.skip("no wrapped VLEK hashstick for this host's chip")
    assert len(blob) == SIZE
    return blob


def load(host: Host, blob: bytes, version: int = 0) -> CallResult:
    """SNP_VLEK_LOAD of a wrapped hashstick."""
    return attempt("SNP_VLEK_LOAD", host.sev.vlek_load, blob, version)


def test_running_guest(boot: Callable[..., Host], hashstick: bytes) -> None:
    """A VLEK that is loaded while a guest runs signs its next report.

    It is the first here, so that the host can go on with the VLEK.
    """
    host = boot(shared=VLEK_HOST)
    if host.sev.platform_status().vlek_en:
        host = boot()
    with Guest.launch(host) as guest:
        messenger = Messenger(guest.cpu())
        before, key = report_of(messenger), messenger.derived_key()
        blob = endorsement(host, "hashstick")
        assert blob is not None
        host.sev.vlek_load(blob)
        after, other_key = report_of(messenger), messenger.derived_key()
    assert (before.signing_key, after.signing_key) == (SIGNED_BY_VCEK, SIGNED_BY_VLEK)
    assert key != other_key


def test_loaded(vlek_host: Host) -> None:
    """With a VLEK loaded the status says so and reports are signed by it, up to the root."""
    assert vlek_host.sev.platform_status().vlek_en
    with Guest.launch(vlek_host) as guest:
        messenger = Messenger(guest.cpu())
        report = report_of(messenger)
        chosen = report_of(messenger, key_select=VLEK)
    assert report.signing_key == SIGNED_BY_VLEK
    assert chosen.signing_key == SIGNED_BY_VLEK
    vlek, asvk, ark = (certificate(vlek_host, name) for name in ("vlek", "asvk", "ark"))
    report.verify(vlek)
    chosen.verify(vlek)
    verify_chain(vlek, asvk, ark)


def test_vcek_stays(vlek_host: Host) -> None:
    """A request may still choose the VCEK."""
    with Guest.launch(vlek_host) as guest:
        report = report_of(Messenger(guest.cpu()), key_select=VCEK)
    assert report.signing_key == SIGNED_BY_VCEK
    report.verify(certificate(vlek_host, "vcek"))
    with pytest.raises(VerificationError):
        report.verify(certificate(vlek_host, "vlek"))


def test_guest_that_wants_the_vlek(vlek_host: Host) -> None:
    """A guest that has no use of the VCEK gets reports signed by the VLEK."""
    finish: dict[str, Any] = {vlek_host.interface.finish_key_field: 1}
    with Guest.launch(vlek_host, finish=finish) as guest:
        messenger = Messenger(guest.cpu())
        assert report_of(messenger).signing_key == SIGNED_BY_VLEK
        status = report_status(messenger, report_request(key_select=VCEK))
    assert status == SevFwError.INVALID_KEY


def test_key_of_another_tcb(vlek_host: Host) -> None:
    """The VLEK, too, is that of the reported TCB."""
    newer = certificate(vlek_host, "vlek")
    with Guest.launch(vlek_host) as guest:
        messenger = Messenger(guest.cpu())
        older = report_of(messenger).committed_tcb - (1 << 48)
        vlek_host.sev.set_config(sevapi.sev_user_data_snp_config(reported_tcb=older))
        report = report_of(messenger)
    report.verify(certificate(vlek_host, "vlek"))
    with pytest.raises(VerificationError):
        report.verify(newer)


@pytest.mark.parametrize("offset", [0, 0x10, 0x18F, 0x190, 0x1A0, 0x1AF])
def test_tampered(host: Host, hashstick: bytes, offset: int) -> None:
    """A hashstick of which one bit changed is refused, and none is loaded."""
    blob = bytearray(hashstick)
    blob[offset] ^= 1
    assert load(host, bytes(blob)) == failed(errno.EIO, SevFwError.BAD_MEASUREMENT)
    assert not host.sev.platform_status().vlek_en


@pytest.mark.parametrize("offset", [0x0C, 0x0F, 0x192])
def test_reserved_bytes(host: Host, hashstick: bytes, offset: int) -> None:
    """Reserved bytes of the hashstick must be zero."""
    blob = bytearray(hashstick)
    blob[offset] = 1
    assert load(host, bytes(blob)) == failed(errno.EIO, SevFwError.INVALID_PARAM)
    assert not host.sev.platform_status().vlek_en


@pytest.mark.parametrize("version", [1, 255])
def test_unknown_version(host: Host, hashstick: bytes, version: int) -> None:
    """The driver knows hashsticks of version 0 only."""
    assert load(host, hashstick, version) == failed(errno.EINVAL)
    assert not host.sev.platform_status().vlek_en


@pytest.mark.parametrize("difference", [-16, -1, 1, 1 << 16])
def test_wrong_length(host: Host, hashstick: bytes, difference: int) -> None:
    """The structure's length must be its size."""
    address = host.kernel.mmap(4096)
    host.kernel.write(address, hashstick)
    size = ctypes.sizeof(sevapi.sev_user_data_snp_vlek_load)
    struct = sevapi.sev_user_data_snp_vlek_load(len=size + difference, vlek_wrapped_address=address)
    assert host.sev.call(sevapi.SNP_VLEK_LOAD, bytes(struct)).errno == errno.EINVAL
    host.kernel.munmap(address, 4096)
    assert not host.sev.platform_status().vlek_en


@pytest.mark.parametrize(("address", "code"), [(0, errno.EINVAL), (1 << 46, errno.EFAULT)])
def test_bad_address(host: Host, address: int, code: int) -> None:
    """A hashstick has to be there: address 0 means nothing, any other must be readable."""
    size = ctypes.sizeof(sevapi.sev_user_data_snp_vlek_load)
    struct = sevapi.sev_user_data_snp_vlek_load(len=size, vlek_wrapped_address=address)
    assert host.sev.call(sevapi.SNP_VLEK_LOAD, bytes(struct)).errno == code
    assert not host.sev.platform_status().vlek_en


def test_no_structure(host: Host) -> None:
    """A structure has to be given."""
    assert host.sev.call(sevapi.SNP_VLEK_LOAD).errno == errno.EINVAL
