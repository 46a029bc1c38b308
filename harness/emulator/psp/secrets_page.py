# SPDX-License-Identifier: GPL-2.0-only
"""The secrets page that a launch puts into a guest (firmware ABI 56860, secrets page)."""

from __future__ import annotations

from harness.emulator.psp.guest_context import GuestContext
from harness.uapi.guest_message import snp_secrets_page

VERSION = 3
FMS = 0x00A00F11
"""Family, model and stepping of a Milan, as CPUID function 1 reports them in EAX."""


def secrets_page(guest: GuestContext) -> bytes:
    """What the guest finds: the keys of its channel to the firmware, and who it runs on."""
    page = snp_secrets_page(version=VERSION, imien=guest.imi, fms=FMS, gosvw=guest.gosvw)
    for index, key in enumerate(guest.vmpcks):
        setattr(page, f"vmpck{index}", key)
    return bytes(page)
