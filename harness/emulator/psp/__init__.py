# SPDX-License-Identifier: GPL-2.0-only
"""The SEV-SNP firmware (ABI specification 56860, rev 1.55) as a model.

It touches the world only through PhysicalMemory and Rmp.  `firmware` dispatches; `platform`,
`guest_context`, `launch` and `guest_request` are the commands; `pages` holds the page states,
`guest_message` the messages' cryptography, `report` and `certificates` the attestation.
"""

from harness.emulator.psp.firmware import Psp

__all__ = ["Psp"]
