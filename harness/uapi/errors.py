# SPDX-License-Identifier: GPL-2.0-only
"""Names of errors: firmware status codes and errnos, for messages people read."""

from __future__ import annotations

import errno as _errno
from enum import IntEnum


class SevFwError(IntEnum):
    """Firmware status, the kernel's sev_ret_code without its prefix SEV_RET_.

    include/uapi/linux/psp-sev.h, Linux 6.12; SNP firmware ABI 56860 rev 1.55, status codes.
    """

    NO_FW_CALL = -1  # the kernel's own: the firmware was never called
    SUCCESS = 0x0000
    INVALID_PLATFORM_STATE = 0x0001
    INVALID_GUEST_STATE = 0x0002
    INVALID_CONFIG = 0x0003
    INVALID_LEN = 0x0004
    ALREADY_OWNED = 0x0005
    INVALID_CERTIFICATE = 0x0006
    POLICY_FAILURE = 0x0007
    INACTIVE = 0x0008
    INVALID_ADDRESS = 0x0009
    BAD_SIGNATURE = 0x000A
    BAD_MEASUREMENT = 0x000B
    ASID_OWNED = 0x000C
    INVALID_ASID = 0x000D
    WBINVD_REQUIRED = 0x000E
    DFFLUSH_REQUIRED = 0x000F
    INVALID_GUEST = 0x0010
    INVALID_COMMAND = 0x0011
    ACTIVE = 0x0012
    HWSEV_RET_PLATFORM = 0x0013
    HWERROR_PLATFORM = 0x0013  # the specification's name
    HWSEV_RET_UNSAFE = 0x0014
    HWERROR_UNSAFE = 0x0014
    UNSUPPORTED = 0x0015
    INVALID_PARAM = 0x0016
    RESOURCE_LIMIT = 0x0017
    SECURE_DATA_INVALID = 0x0018
    INVALID_PAGE_SIZE = 0x0019
    INVALID_PAGE_STATE = 0x001A
    INVALID_MDATA_ENTRY = 0x001B
    INVALID_PAGE_OWNER = 0x001C
    AEAD_OFLOW = 0x001D
    EXIT_RING_BUFFER = 0x001F
    RMP_INIT_REQUIRED = 0x0020
    BAD_SVN = 0x0021
    BAD_VERSION = 0x0022
    SHUTDOWN_REQUIRED = 0x0023
    UPDATE_FAILED = 0x0024
    RESTORE_REQUIRED = 0x0025
    RMP_INITIALIZATION_FAILED = 0x0026
    INVALID_KEY = 0x0027


def fw_error_name(value: int) -> str:
    """Name of a firmware status as the kernel spells it, the number where it has none.

    `value` may be signed or the unsigned 32 bits of kvm_sev_cmd.error.
    """
    signed = value - (1 << 32) if value >= 1 << 31 else value
    try:
        return f"SEV_RET_{SevFwError(signed).name}"
    except ValueError:
        return f"firmware error {value:#x}"


def status_name(value: int) -> str:
    """Name of a firmware status without prefix: INVALID_PARAM, 0 is SUCCESS."""
    return fw_error_name(value).removeprefix("SEV_RET_").removeprefix("firmware ")


_OURS = {_errno.EOPNOTSUPP: "EOPNOTSUPP", _errno.EDEADLK: "EDEADLK", 133: "EHWPOISON"}
"""Of errnos with two names the one that the kernel uses; and one that Python may not know."""


def errno_name(value: int) -> str:
    """Name of an errno (0 is `success`), the number where it has none."""
    number = abs(value)
    if number == 0:
        return "success"
    return _OURS.get(number) or _errno.errorcode.get(number, f"errno {number}")
