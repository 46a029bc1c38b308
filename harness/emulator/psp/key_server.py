# SPDX-License-Identifier: GPL-2.0-only
"""What the vendor's key server hands out for the emulated chip: certificates, a hashstick."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding

from harness.emulator.psp.endorsement import emulated_hashstick
from harness.emulator.psp.firmware import Psp

NAMES = "ark", "ask", "asvk", "vcek", "vlek", "hashstick"


def endorsement(psp: Psp, seed: int, name: str) -> bytes:
    """A certificate in DER at the reported TCB, or a hashstick for SNP_VLEK_LOAD.

    ValueError for a name that is not in NAMES; Refused for `vlek` while none is loaded.
    """
    if name == "hashstick":
        return emulated_hashstick(seed, psp.platform.reported_tcb)
    known = psp.certificates
    match name:
        case "ark":
            certificate = known.ark
        case "ask":
            certificate = known.ask
        case "asvk":
            certificate = known.asvk
        case "vcek":
            certificate = known.vcek()
        case "vlek":
            certificate = known.vlek()
        case _:
            raise ValueError(f"no endorsement is called {name!r}; known: {', '.join(NAMES)}")
    return certificate.public_bytes(Encoding.DER)
