# SPDX-License-Identifier: GPL-2.0-only
"""Endorsement keys: VCEK, bound to chip and TCB, and VLEK, bound to a hashstick and TCB.

A VLEK hashstick reaches the firmware wrapped with AES-256-GCM under a key that only the chip
and its vendor know (56860, SNP_VLEK_LOAD, wrapped VLEK hashstick).
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from harness.emulator.psp.keys import Secrets, private_key
from harness.emulator.psp.platform import Platform
from harness.emulator.psp.status import Refused, require
from harness.emulator.psp.tcb import RESERVED, Tcb
from harness.uapi.errors import SevFwError

HASHSTICK_SIZE = 384
WRAPPED_SIZE = 432

_WRAPPED = struct.Struct("<12s4x384sQ8x16s")
"""IV, wrapped hashstick, TCB_VERSION, authentication tag."""

_AUTHENTICATED = slice(0x190, 0x1A0)

KEY_SELECT_ANY, KEY_SELECT_VCEK, KEY_SELECT_VLEK = 0, 1, 2
"""KEY_SEL of MSG_REPORT_REQ and MSG_KEY_REQ: the default prefers a VLEK that is loaded."""


def wrap_hashstick(seed: int, hashstick: bytes, tcb: Tcb) -> bytes:
    """What the vendor's key server would send for the chip with this seed."""
    if len(hashstick) != HASHSTICK_SIZE:
        raise ValueError(f"a hashstick has {HASHSTICK_SIZE} bytes, not {len(hashstick)}")
    iv = hashlib.sha256(hashstick).digest()[:12]
    header = struct.pack("<Q8x", tcb.value)
    sealed = AESGCM(_wrapping_key(Secrets(seed))).encrypt(iv, hashstick, header)
    return _WRAPPED.pack(iv, sealed[:HASHSTICK_SIZE], tcb.value, sealed[HASHSTICK_SIZE:])


def emulated_hashstick(seed: int, tcb: Tcb) -> bytes:
    """A wrapped hashstick of the emulated cloud provider, good for SNP_VLEK_LOAD."""
    return wrap_hashstick(seed, Secrets(seed).derive("VLEK hashstick", HASHSTICK_SIZE), tcb)


def load_hashstick(platform: Platform, wrapped: bytes) -> None:
    """Unwrap a hashstick and keep it."""
    iv, body, value, tag = _WRAPPED.unpack(wrapped)
    require(not any(wrapped[12:16]), SevFwError.INVALID_PARAM, "reserved bytes")
    require(not value & RESERVED, SevFwError.INVALID_PARAM, "reserved bits of the TCB")
    key = AESGCM(_wrapping_key(platform.secrets))
    try:
        hashstick = key.decrypt(iv, body + tag, wrapped[_AUTHENTICATED])
    except InvalidTag:
        raise Refused(SevFwError.BAD_MEASUREMENT, "wrapped VLEK hashstick") from None
    platform.vlek, platform.vlek_tcb = hashstick, Tcb.decode(value)


def _wrapping_key(secrets: Secrets) -> bytes:
    return secrets.derive("VLEK wrapping key")


def vcek(platform: Platform, tcb: Tcb) -> ec.EllipticCurvePrivateKey:
    """The chip's key at a TCB."""
    return platform.secrets.signing_key("VCEK", tcb.value.to_bytes(8, "little"))


def vlek(platform: Platform, tcb: Tcb) -> ec.EllipticCurvePrivateKey:
    """The loaded key at a TCB; it reaches back to older ones only."""
    if platform.vlek is None or not tcb.within(platform.vlek_tcb):
        raise Refused(SevFwError.INVALID_KEY, "no VLEK for this TCB")
    material = hmac.digest(platform.vlek, tcb.value.to_bytes(8, "little"), "sha512")
    return private_key(hashlib.shake_256(material).digest(72))


def choose(platform: Platform, select: int, *, vcek_disabled: bool) -> bool:
    """Whether the VLEK is to be used; Refused where the key asked for may not be."""
    require(select in (0, 1, 2), SevFwError.INVALID_PARAM, f"KEY_SEL {select}")
    wants_vlek = select == KEY_SELECT_VLEK or (
        select == KEY_SELECT_ANY and platform.vlek is not None
    )
    if wants_vlek:
        require(platform.vlek is not None, SevFwError.INVALID_KEY, "no VLEK is loaded")
    else:
        require(not vcek_disabled, SevFwError.INVALID_KEY, "the guest forbids the VCEK")
    return wants_vlek
