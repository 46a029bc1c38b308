# SPDX-License-Identifier: GPL-2.0-only
"""The SEV firmware as a model: SEV-SNP (ABI specification 56860, rev 1.55), SEV and SEV-ES (55766).

It touches the world only through PhysicalMemory and Rmp.  `firmware` dispatches; `platform`,
`guest_context`, `launch` and `guest_request` are the commands; `pages` holds the page states,
`guest_message` the messages' cryptography, `report` and `certificates` the attestation.
Plain SEV and SEV-ES: `legacy` is the platform, `sev_guest`, `sev_launch` and `sev_migration` the
guests, `sev_channel` and `sev_identity` their cryptography.
"""

from harness.emulator.psp.firmware import Psp

__all__ = ["Psp"]
