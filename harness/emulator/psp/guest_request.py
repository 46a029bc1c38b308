# SPDX-License-Identifier: GPL-2.0-only
"""SNP_GUEST_REQUEST: what a guest asks of the firmware through the host.

A message that cannot be understood fails the command and leaves no response.  A request that
is understood but not granted succeeds, and the encrypted response carries a status.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable

from harness.emulator.psp import cpuid_page, endorsement
from harness.emulator.psp.guest_context import GuestContext, Guests, GuestState
from harness.emulator.psp.guest_message import Message, open_request, seal_response
from harness.emulator.psp.pages import Pages
from harness.emulator.psp.platform import Platform
from harness.emulator.psp.report import attestation_report
from harness.emulator.psp.status import Refused, require
from harness.emulator.psp.tcb import RESERVED, Tcb
from harness.emulator.rmp import PageState
from harness.uapi import guest_message as wire
from harness.uapi.errors import SevFwError
from harness.uapi.layout import PAGE_SIZE, size
from harness.uapi.psp import sev_data_snp_guest_request

_VMPLS = 4
_FIELDS = 0x3F
"""GUEST_FIELD_SELECT: policy, image ID, family ID, measurement, guest SVN, TCB version."""

_CPUID_RESPONSE = struct.Struct("<II8x")


class GuestRequests:
    """The message types, and the command that carries them."""

    def __init__(self, platform: Platform, guests: Guests, pages: Pages) -> None:
        self._platform, self._guests, self._pages = platform, guests, pages
        self._types: dict[int, tuple[Callable[[GuestContext, Message], bytes], int | None]] = {
            wire.SNP_MSG_CPUID_REQ: (self._cpuid, None),
            wire.SNP_MSG_KEY_REQ: (self._key, size(wire.snp_derived_key_req)),
            wire.SNP_MSG_REPORT_REQ: (self._report, size(wire.snp_report_req)),
        }

    def request(self, buffer: bytes) -> None:
        """SNP_GUEST_REQUEST."""
        data = sev_data_snp_guest_request.from_bytes(buffer)
        guest = self._guests.find(data.gctx_paddr)
        guest.require_state(GuestState.RUNNING)
        source = self._pages.address(data.req_paddr)
        self._pages.expect(source, PageState.HYPERVISOR, PageState.HV_FIXED, PageState.FIRMWARE)
        target = self._pages.output(data.res_paddr, PAGE_SIZE)
        message = open_request(guest, self._pages.memory.read(source, PAGE_SIZE))
        known = self._types.get(message.kind)
        if known is None or message.version != 1:
            raise Refused(SevFwError.INVALID_PARAM, f"type {message.kind} v{message.version}")
        handler, length = known
        good = length is None or length == len(message.payload)
        require(good, SevFwError.INVALID_PARAM, f"payload of {len(message.payload)} bytes")
        answer = handler(guest, message)
        page = seal_response(guest, message, message.kind + 1, answer)
        self._pages.memory.write(target, page)

    def _report(self, guest: GuestContext, message: Message) -> bytes:
        """MSG_REPORT_REQ."""
        request = wire.snp_report_req.from_bytes(message.payload)
        header = wire.snp_report_resp_hdr()
        try:
            _require_vmpl(request.vmpl, message)
            reserved = any(bytes(request.rsvd_tail))
            require(not reserved, SevFwError.INVALID_PARAM, "reserved bytes")
            report = attestation_report(
                self._platform, guest, bytes(request.user_data), request.vmpl, request.key_sel
            )
        except Refused as refused:
            header.status = refused.status
            return bytes(header)
        header.report_size = len(report)
        return bytes(header) + report

    def _key(self, guest: GuestContext, message: Message) -> bytes:
        """MSG_KEY_REQ."""
        request = wire.snp_derived_key_req.from_bytes(message.payload)
        response = wire.snp_derived_key_rsp()
        try:
            response.derived_key = self._derive(guest, message, request)
        except Refused as refused:
            response.status = refused.status
        return bytes(response)

    def _derive(
        self, guest: GuestContext, message: Message, request: wire.snp_derived_key_req
    ) -> bytes:
        """A key that depends on the root, the VMPL and the fields the guest selects."""
        _require_vmpl(request.vmpl, message)
        select, root_select = request.guest_field_select, request.root_key_select
        bad = (
            select & ~_FIELDS or root_select >> 3 or request.rsvd or request.tcb_version & RESERVED
        )
        require(not bad, SevFwError.INVALID_PARAM, "reserved bits")
        tcb = Tcb.decode(request.tcb_version)
        platform = self._platform
        good = request.guest_svn <= guest.guest_svn and tcb.within(platform.committed_tcb)
        require(good, SevFwError.INVALID_PARAM, "SVN or TCB beyond those of the guest")
        if root_select & 1:
            root = guest.vmrk
        else:
            root = self._root_key(guest, root_select >> 1)
        fields = (
            guest.policy.to_bytes(8, "little"),
            guest.image_id,
            guest.family_id,
            guest.digest.value,
            request.guest_svn.to_bytes(4, "little"),
            tcb.value.to_bytes(8, "little"),
        )
        mixed = struct.pack("<QI", select, request.vmpl)
        for index, content in enumerate(fields):
            mixed += content if select >> index & 1 else bytes(len(content))
        return hmac.digest(root, b"snptest derived key" + mixed, "sha256")

    def _root_key(self, guest: GuestContext, key_select: int) -> bytes:
        platform = self._platform
        use_vlek = endorsement.choose(platform, key_select, vcek_disabled=guest.vcek_disabled)
        key = (endorsement.vlek if use_vlek else endorsement.vcek)(platform, platform.reported_tcb)
        return key.private_numbers().private_value.to_bytes(48, "little")

    def _cpuid(self, _guest: GuestContext, message: Message) -> bytes:
        """MSG_CPUID_REQ: the functions come back corrected, with INVALID_PARAM where they were."""
        table = bytearray(message.payload.ljust(size(wire.snp_cpuid_table), b"\0"))
        good = cpuid_page.correct(table)
        status = SevFwError.SUCCESS if good else SevFwError.INVALID_PARAM
        count = int.from_bytes(table[:4], "little")
        functions = table[16 : 16 + count * size(wire.snp_cpuid_fn)]
        return _CPUID_RESPONSE.pack(status, count) + bytes(functions)


def _require_vmpl(vmpl: int, message: Message) -> None:
    """A key of VMPL n speaks for VMPL n and what is less privileged."""
    good = message.vmpck <= vmpl < _VMPLS
    require(good, SevFwError.INVALID_PARAM, f"VMPL{vmpl} through VMPCK{message.vmpck}")
