# SPDX-License-Identifier: GPL-2.0-only
"""SNP_SET_CONFIG and SNP_COMMIT: what the next report shows of them."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from harness.uapi import sev as sevapi
from harness.uapi.errors import SevFwError
from harness.vm.attestation import SIGNED_BY_NONE, SIGNED_BY_VCEK, VerificationError
from harness.vm.guest import Guest
from harness.vm.guest_message import Messenger, key_request
from harness.vm.host import Host
from harness.vm.results import OK, attempt, failed
from harness.vm.sevdev import SevPlatform
from suites.guest_req.messaging import certificate, key_response, report_of

pytestmark = [
    pytest.mark.patches(26, 28),
    pytest.mark.areas("attestation", "platform configuration"),
    pytest.mark.needs("snp"),
]

SNP, MICROCODE = 1 << 48, 1 << 56
"""One step of two components of a TCB_VERSION."""


def config(**fields: int) -> sevapi.sev_user_data_snp_config:
    """A configuration."""
    return sevapi.sev_user_data_snp_config(**fields)


def test_reported_tcb(platform: SevPlatform, messenger: Messenger) -> None:
    """The next report, and the status, show the TCB that was configured, the rest stays."""
    before = report_of(messenger)
    older = before.committed_tcb - SNP
    platform.set_config(config(reported_tcb=older))
    report = report_of(messenger)
    assert report.reported_tcb == older
    assert platform.platform_status().reported_tcb_version == older
    assert report.current_tcb == before.current_tcb
    assert report.committed_tcb == before.committed_tcb
    assert report.chip_id == before.chip_id


def test_reported_tcb_chooses_the_key(
    endorsed: Host, platform: SevPlatform, messenger: Messenger
) -> None:
    """A report is signed by the VCEK of the reported TCB, and by no other."""
    before = report_of(messenger)
    newer = certificate(endorsed, "vcek")
    platform.set_config(config(reported_tcb=before.committed_tcb - SNP))
    report = report_of(messenger)
    report.verify(certificate(endorsed, "vcek"))
    with pytest.raises(VerificationError):
        report.verify(newer)
    before.verify(newer)


def test_reported_tcb_zero_is_the_default(platform: SevPlatform, messenger: Messenger) -> None:
    """A configured TCB of zero takes the configuration back."""
    default = report_of(messenger).reported_tcb
    platform.set_config(config(reported_tcb=default - MICROCODE))
    assert report_of(messenger).reported_tcb == default - MICROCODE
    platform.set_config(config())
    assert report_of(messenger).reported_tcb == default


def test_derived_keys_follow_the_reported_tcb(platform: SevPlatform, messenger: Messenger) -> None:
    """The chip's root key is that of the reported TCB; the VMRK does not depend on it."""
    report = report_of(messenger)
    requests = key_request(), key_request(root_key_select=1)
    chip, vmrk = (messenger.derived_key(request) for request in requests)
    platform.set_config(config(reported_tcb=report.committed_tcb - SNP))
    assert messenger.derived_key(requests[0]) != chip
    assert messenger.derived_key(requests[1]) == vmrk
    platform.set_config(config())
    assert messenger.derived_key(requests[0]) == chip


@pytest.mark.parametrize("step", [SNP, MICROCODE, 1])
def test_newer_tcb(platform: SevPlatform, messenger: Messenger, step: int) -> None:
    """A TCB newer than the committed one is refused, and the configuration stays."""
    report = report_of(messenger)
    newer = config(reported_tcb=report.committed_tcb + step, mask_chip_id=1)
    result = attempt("SNP_SET_CONFIG", platform.set_config, newer)
    assert result == failed(errno.EIO, SevFwError.INVALID_PARAM)
    after = report_of(messenger)
    assert after.reported_tcb == report.reported_tcb
    assert after.chip_id == report.chip_id


@pytest.mark.parametrize("fields", [{"rsvd": 1}, {"rsvd": 1 << 29}, {"reported_tcb": 1 << 20}])
def test_reserved_bits(platform: SevPlatform, fields: dict[str, int]) -> None:
    """Reserved bits are refused by the firmware."""
    result = attempt("SNP_SET_CONFIG", platform.set_config, config(**fields))
    assert result == failed(errno.EIO, SevFwError.INVALID_PARAM)


def test_reserved_bytes(platform: SevPlatform) -> None:
    """The bytes behind the flags are reserved up to the last one."""
    raw = bytearray(bytes(config()))
    raw[-1] = 1
    result = platform.call(sevapi.SNP_SET_CONFIG, bytes(raw))
    assert result.outcome == failed(errno.EIO, SevFwError.INVALID_PARAM)


def test_no_structure(platform: SevPlatform) -> None:
    """A configuration has to be given."""
    assert platform.call(sevapi.SNP_SET_CONFIG).errno == errno.EINVAL


def test_mask_chip_id(platform: SevPlatform, messenger: Messenger) -> None:
    """A masked chip ID is zeros in the report, which is signed all the same."""
    platform.set_config(config(mask_chip_id=1))
    masked = report_of(messenger)
    assert platform.platform_status().mask_chip_id
    assert masked.chip_id == bytes(64)
    assert masked.signing_key == SIGNED_BY_VCEK
    assert any(masked.signature)
    platform.set_config(config())
    assert any(report_of(messenger).chip_id)


def test_mask_chip_key(platform: SevPlatform, messenger: Messenger) -> None:
    """With a masked chip key a report says so and is not signed."""
    platform.set_config(config(mask_chip_key=1))
    masked = report_of(messenger)
    assert platform.platform_status().mask_chip_key
    assert masked.mask_chip_key
    assert masked.signing_key == SIGNED_BY_NONE
    assert masked.signature == (0, 0)
    platform.set_config(config())
    report = report_of(messenger)
    assert report.signing_key == SIGNED_BY_VCEK
    assert any(report.signature)


def test_commit(platform: SevPlatform, messenger: Messenger) -> None:
    """After SNP_COMMIT the committed TCB and version are the current ones."""
    platform.commit()
    report = report_of(messenger)
    assert report.committed_tcb == report.current_tcb
    assert report.committed_version == report.current_version


def test_commit_of_newer_firmware(boot: Callable[..., Host]) -> None:
    """A commit shows in the next report of a guest that ran before it."""
    host = boot(provisional=True)
    with Guest.launch(host) as guest:
        messenger = Messenger(guest.cpu())
        before = report_of(messenger)
        assert before.committed_tcb < before.current_tcb
        assert before.committed_version < before.current_version
        host.sev.commit()
        after = report_of(messenger)
    assert after.committed_tcb == before.current_tcb
    assert after.current_tcb == before.current_tcb
    assert after.committed_version == before.current_version
    assert after.current_version == before.current_version


def test_uncommitted_firmware(boot: Callable[..., Host]) -> None:
    """What is not committed yet can be neither configured nor mixed into keys."""
    host = boot(provisional=True)
    with Guest.launch(host) as guest:
        messenger = Messenger(guest.cpu())
        current = report_of(messenger).current_tcb
        lower = attempt("SNP_SET_CONFIG", host.sev.set_config, config(reported_tcb=current))
        assert lower != OK
        assert key_response(messenger, tcb_version=current).status == SevFwError.INVALID_PARAM
        host.sev.commit()
        host.sev.set_config(config(reported_tcb=current))
        assert key_response(messenger, tcb_version=current).status == 0
