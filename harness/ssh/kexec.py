# SPDX-License-Identifier: GPL-2.0-only
"""Why a host's kernel does not let kexec load another: by what it says of itself.

kexec prints the error of a system call; which of several doors was shut is in /proc and /sys.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.kernel import Kernel
from harness.operations import Completed
from harness.report import sanitize
from harness.ssh.install import command, said

LOCKDOWN = "/sys/kernel/security/lockdown"
DISABLED = "/proc/sys/kernel/kexec_load_disabled"
LIMIT = "/proc/sys/kernel/kexec_load_limit_reboot"
_ONE_SHOT = "or boot.how = 'one-shot'"
_FORBIDDEN = re.compile(r"Operation not permitted|Permission denied", re.IGNORECASE)
_UNSIGNED = re.compile(
    # ENOKEY, EKEYREJECTED, ELIBBAD, ENOPKG and EBADMSG of kexec_file_load(2)
    r"Required key not available|Key was rejected|corrupted shared library"
    r"|Package not installed|Bad message",
    re.IGNORECASE,
)
_NO_KEXEC = re.compile(r"Function not implemented|not available", re.IGNORECASE)


def why_not_loaded(kernel: Kernel, attempts: Sequence[Completed]) -> tuple[str, str]:
    """Return why no attempt succeeded, with kexec's own words, and what to do about it."""
    words = "; ".join(dict.fromkeys(map(_complaint, attempts)))
    if attempts[-1].status == 127:
        return f"{words}: there is no kexec", "install kexec-tools there"
    forbidden, unsigned = bool(_FORBIDDEN.search(words)), bool(_UNSIGNED.search(words))
    if forbidden or unsigned:
        mode = _lockdown(kernel)
        if mode:
            return (
                f"its kernel is locked down ({mode}), and takes signed kernels only: {words}",
                "Secure Boot does that: turn it off in the firmware; or lockdown= on the kernel's "
                "command line",
            )
        if unsigned:
            return (
                f"its kernel takes signed kernels only: {words}",
                "CONFIG_KEXEC_SIG_FORCE has it so: another kernel there, or one that is signed",
            )
        if (kernel.read_file(DISABLED) or "").strip() == "1":
            return (
                f"kernel.kexec_load_disabled is 1 there: {words}",
                f"a reboot without it in sysctl.d undoes that; {_ONE_SHOT}",
            )
        if (kernel.read_file(LIMIT) or "").strip() == "0":
            return (
                f"kernel.kexec_load_limit_reboot is 0 there: {words}",
                f"a reboot without it in sysctl.d undoes that; {_ONE_SHOT}",
            )
        if command(kernel, ["id", "-u"]).output.strip() != b"0":
            return f"its user may not: {words}", "log in as root, or set sudo in ci/hosts.toml"
    if _NO_KEXEC.search(words):
        return (
            f"its kernel has no kexec: {words}",
            f"CONFIG_KEXEC and CONFIG_KEXEC_FILE are needed there; {_ONE_SHOT}",
        )
    return words, f"kexec-tools and CONFIG_KEXEC are needed there; {_ONE_SHOT}"


def _lockdown(kernel: Kernel) -> str:
    """Return the mode of kernel_lockdown(7): integrity or confidentiality; "" where it is off."""
    text = kernel.read_file(LOCKDOWN)
    if text is None:
        # securityfs need not be mounted; the kernel says it when it refuses.
        log = command(kernel, ["sh", "-c", "dmesg | grep 'Lockdown: kexec' | tail -n 1"]).output
        return "says its log" if log.strip() else ""
    mode = re.search(r"\[(\w+)\]", text)
    return sanitize.line(mode[1], 40) if mode and mode[1] != "none" else ""


def _complaint(done: Completed) -> str:
    """Return the line that names the failure: kexec prints the segments after it."""
    lines = done.output.decode(errors="replace").splitlines()
    failed = next((line for line in lines if "failed" in line), None)
    if done.failure or failed is None:
        return said(done)
    return f"status {done.status}: {sanitize.line(failed, 200)}"
