# SPDX-License-Identifier: GPL-2.0-only
"""The ID block of SNP_LAUNCH_FINISH: the guest owner's word on what may run."""

from __future__ import annotations

from hashlib import sha384

from harness.emulator.psp.guest_context import GuestContext
from harness.emulator.psp.keys import verify
from harness.emulator.psp.status import require
from harness.uapi.errors import SevFwError
from harness.uapi.psp import SEV_ALGO_ECDSA_P384_SHA384, sev_id_auth, sev_id_block

VERSION = 1


def check_id_block(
    guest: GuestContext, block: sev_id_block, auth: sev_id_auth, *, author: bool
) -> None:
    """Hold a launch against its signed ID block and take its fields into the context."""
    require(block.version == VERSION, SevFwError.INVALID_PARAM, "version of the ID block")
    require(
        auth.id_key_algo == SEV_ALGO_ECDSA_P384_SHA384,
        SevFwError.INVALID_PARAM,
        "algorithm of the ID key",
    )
    key, author_key = auth.id_key, auth.author_key
    if author:
        require(
            auth.auth_key_algo == SEV_ALGO_ECDSA_P384_SHA384,
            SevFwError.INVALID_PARAM,
            "algorithm of the author key",
        )
        good = verify(author_key, auth.id_key_sig, bytes(key))
        require(good, SevFwError.BAD_SIGNATURE, "author's signature of the ID key")
    good = verify(key, auth.id_block_sig, bytes(block))
    require(good, SevFwError.BAD_SIGNATURE, "signature of the ID block")
    require(block.policy == guest.policy, SevFwError.POLICY_FAILURE, "policy of the ID block")
    require(
        bytes(block.ld) == guest.digest.value, SevFwError.BAD_MEASUREMENT, "digest of the ID block"
    )
    guest.family_id, guest.image_id = bytes(block.family_id), bytes(block.image_id)
    guest.guest_svn = block.guest_svn
    guest.id_key_digest = sha384(bytes(key)).digest()
    guest.author_key_en = author
    if author:
        guest.author_key_digest = sha384(bytes(author_key)).digest()
