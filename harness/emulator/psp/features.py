# SPDX-License-Identifier: GPL-2.0-only
"""SNP_FEATURE_INFO and SNP_VERIFY_MITIGATION: what the firmware can, and which holes it closed.

The bits are CPUID 0x80000024's (56860, SNP_FEATURE_INFO; include/linux/psp-sev.h, Linux 7.3).
"""

from __future__ import annotations

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.psp.pages import Pages
from harness.emulator.psp.platform import Platform
from harness.emulator.psp.status import require
from harness.uapi import psp_newer as newer
from harness.uapi.errors import SevFwError
from harness.uapi.layout import size

HIGHEST = 0
"""The highest sub-function: the one on guest messages is not modelled."""


class FeatureCommands:
    """Commands that Linux issues from 7.x on."""

    def __init__(self, platform: Platform, pages: Pages) -> None:
        self._platform, self._pages = platform, pages

    def feature_info(self, buffer: bytes) -> None:
        """SNP_FEATURE_INFO, also before SNP_INIT; the answer does not cross a page."""
        features = self._platform.features
        require(features.feature_info, SevFwError.UNSUPPORTED, "older firmware")
        data = newer.sev_data_snp_feature_info.from_bytes(buffer)
        require(data.length == len(buffer), SevFwError.INVALID_PARAM, f"length {data.length}")
        require(data.ecx_in == 0, SevFwError.INVALID_PARAM, f"sub-function {data.ecx_in}")
        length = size(newer.snp_feature_info)
        target = self._pages.output(data.feature_info_paddr, length, align=4)
        fits = target % PAGE_SIZE <= PAGE_SIZE - length
        require(fits, SevFwError.INVALID_ADDRESS, "crosses a page")
        answer = newer.snp_feature_info(
            eax=HIGHEST, ebx=newer.SNP_SEV_LEGACY_SUPPORTED, ecx=features.ecx
        )
        self._pages.memory.write(target, bytes(answer))

    def verify_mitigation(self, buffer: bytes) -> None:
        """SNP_VERIFY_MITIGATION: one vulnerability at a time, or the state of all."""
        platform = self._platform
        supported = platform.features.mitigations
        require(supported is not None, SevFwError.UNSUPPORTED, "older firmware")
        assert supported is not None
        data = newer.sev_data_snp_verify_mitigation.from_bytes(buffer)
        require(data.length == len(buffer), SevFwError.INVALID_PARAM, f"length {data.length}")
        reserved = data.rsvd or data.rsvd1 or any(bytes(data.rsvd2)) or any(bytes(data.rsvd3))
        require(not reserved, SevFwError.INVALID_PARAM, "reserved bits")
        verify = data.subcommand == newer.SNP_MIT_SUBCMD_REQ_VERIFY
        known = verify or data.subcommand == newer.SNP_MIT_SUBCMD_REQ_STATUS
        require(known, SevFwError.INVALID_PARAM, f"sub-command {data.subcommand}")
        if verify:
            one = data.vector.bit_count() == 1 and data.vector & supported
            require(bool(one), SevFwError.INVALID_PARAM, f"vector 0x{data.vector:x}")
        target = None
        if data.dst_paddr_en:
            length = size(newer.sev_data_snp_verify_mitigation_dst)
            target = self._pages.output(data.dst_paddr, length, align=8)
        if verify:
            platform.verified_mitigations |= data.vector
        if target is not None:
            answer = newer.sev_data_snp_verify_mitigation_dst(
                mit_verified_vector=platform.verified_mitigations, mit_supported_vector=supported
            )
            self._pages.memory.write(target, bytes(answer))
