# SPDX-License-Identifier: GPL-2.0-only
"""Guest requests as values: what came of one, whoever was told of its failure."""

from __future__ import annotations

from typing import Any, Final

import pytest
from cryptography import x509

from harness.uapi import ghcb as abi
from harness.uapi.errors import SevFwError
from harness.uapi.interfaces import GuestRequestFailure, Interface
from harness.vm import exits, layout
from harness.vm.attestation import Report
from harness.vm.guest import Guest, GuestCpu
from harness.vm.guest_commands import VmgExitResult
from harness.vm.guest_message import (
    Answer,
    KeyResponse,
    MessageHeader,
    MessageType,
    Messenger,
    ReportResponse,
    key_request,
    report_request,
    seal,
)
from harness.vm.host import Host

PAGE: Final = layout.PAGE_SIZE
REQUEST: Final = abi.SVM_VMGEXIT_GUEST_REQUEST
EXTENDED: Final = abi.SVM_VMGEXIT_EXT_GUEST_REQUEST
EIO: Final = 5

DATA: Final = layout.SHARED_FREE_GPA
"""Shared pages for certificates."""
CERTIFICATES: Final = bytes(range(1, 256)) * 40
VCEK, VLEK = 1, 2
"""KEY_SEL of a report request."""
VLEK_HOST: Final = "VLEK"
"""Name of the host that is booted for a VLEK, which no command takes out again."""
INVALID_LEN, BUSY = 1, 2
"""SNP_GUEST_VMM_ERR_* of the GHCB specification (56421, SNP Extended Guest Request)."""


class CertificateSource:
    """A VMM that has certificates, or refuses with `error`."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.certificates = CERTIFICATES
        self.error = 0

    def give(self, gpa: int, npages: int, too_small: int) -> tuple[int, int | None]:
        """Put them into pages of the guest: the error (0: none), and the pages they need.

        `too_small` is the error for fewer pages than that.
        """
        if self.error:
            return self.error, None
        needed = -(-len(self.certificates) // PAGE)
        if npages < needed:
            return too_small, needed
        self.guest.vm.write_gpa(gpa, self.certificates)
        return 0, None


def refused(interface: Interface, error: SevFwError) -> int:
    """SW_EXITINFO2 of a request that the firmware refuses."""
    return interface.guest_request_generic << 32 | error


def attempt(
    cpu: GuestCpu, request: int, response: int, code: int = REQUEST, **fields: int
) -> VmgExitResult | exits.Exit:
    """A guest request: what the guest saw, or the exit of a KVM_RUN that failed for it."""
    result = cpu.vmgexit_raw(code, request, response, **fields)
    return result.exit if result.exit is not None else VmgExitResult.of(result)


def assert_not_carried(cpu: GuestCpu, left: VmgExitResult | exits.Exit) -> None:
    """The hypervisor could not carry the request, and said so to whom its interface says it."""
    interface = cpu.guest.vm.interface
    if interface.guest_request_failure is GuestRequestFailure.USERSPACE:
        assert left == exits.RunError(EIO)
        assert isinstance(cpu.resume(), exits.IoExit)
    else:
        assert isinstance(left, VmgExitResult)
        assert (left.info1, left.info2) == (0, interface.guest_request_generic << 32)


def report_page(messenger: Messenger, data: bytes = b"", **header: Any) -> bytes:
    """A sealed request for a report with the messenger's next number, or other header fields."""
    payload = report_request(data, vmpl=messenger.level)
    fields: dict[str, Any] = {
        "type": MessageType.REPORT_REQ,
        "size": len(payload),
        "seqno": messenger.seqno,
        "vmpck": messenger.level,
    }
    return seal(messenger.key, MessageHeader(**(fields | header)), payload)


def report_of(messenger: Messenger, data: bytes = b"", **fields: int) -> Report:
    """An attestation report."""
    return Report.decode(messenger.report(data, **fields))


def report_status(messenger: Messenger, payload: bytes) -> int:
    """STATUS of the answer to a payload of MSG_REPORT_REQ, which must come without a report."""
    answer = messenger.send(MessageType.REPORT_REQ, payload)
    assert answer.ok
    response = ReportResponse.decode(answer.payload)
    assert response.status == 0 or not response.report
    return response.status


def key_response(messenger: Messenger, payload: bytes | None = None, **fields: Any) -> KeyResponse:
    """The answer to a key request."""
    answer = messenger.send(MessageType.KEY_REQ, payload or key_request(**fields))
    assert answer.ok
    return KeyResponse.decode(answer.payload)


def key_of(guest: Guest, **fields: int) -> bytes:
    """A key derived by a guest under VMPCK0, in its first message."""
    return Messenger(guest.cpu()).derived_key(key_request(**fields))


def extended(messenger: Messenger, data: bytes = b"", *, pages: int = 1, gpa: int = DATA) -> Answer:
    """An extended request for a report."""
    return messenger.send(
        MessageType.REPORT_REQ,
        report_request(data, vmpl=messenger.level),
        extended=True,
        data_gpa=gpa,
        data_pages=pages,
    )


def report_in(answer: Answer) -> Report:
    """The report in an answer."""
    assert answer.ok, answer.exit
    return Report.decode(ReportResponse.decode(answer.payload).report)


def endorsement(host: Host, name: str) -> bytes | None:
    """What the vendor has for the host's chip, None where the backend cannot say."""
    inspector = host.kernel.inspector
    return inspector.endorsement(name) if inspector else None


def known_chip(host: Host) -> Host:
    """Return the host; skip where the certificates of its chip are not known."""
    if endorsement(host, "ark") is None:
        pytest.skip("the certificates of this host's chip are not known to the harness")
    return host


def certificate(host: Host, name: str) -> x509.Certificate:
    """A certificate of the host's chip at its reported TCB."""
    der = endorsement(host, name)
    assert der is not None, f"no certificate {name}"
    return x509.load_der_x509_certificate(der)
