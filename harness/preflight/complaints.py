# SPDX-License-Identifier: GPL-2.0-only
"""Causes that the kernel's own log names: what it says of SNP when it leaves it off.

The messages are those of Linux 6.9 to 7.3: arch/x86/virt/svm/sev.c ("SEV-SNP: ..."),
drivers/iommu/amd/init.c ("AMD-Vi: SNP: ...", in iommu_snp_enable) and
drivers/crypto/ccp/sev-dev.c ("ccp ...: SEV-SNP: ...", in __sev_snp_init_locked).  What the
firmware answers is named after its ABI (56860).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.preflight import rmp
from harness.preflight.evidence import Evidence
from harness.preflight.finding import PURPOSE, Finding, State
from harness.uapi.errors import SevFwError, fw_error_name

MAX_CAUSES = 4
_STAMP = re.compile(r"^\[[ \d.]+\] ")
_FIRMWARE_ERROR = re.compile(r"\berror (0x[0-9a-f]{1,8})")
_INITIALISED = re.compile(r"SEV-SNP API:")

_COVERAGE = "firmware: SNP memory (RMP table) coverage for all memory"
_SETUP = (
    "firmware setup: SMEE, SEV-SNP support (of CPU and of IOMMU), RMP coverage; "
    "all cores and threads on; update BIOS and PSP firmware"
)


@dataclass(frozen=True, slots=True)
class _Complaint:
    """A message of the kernel."""

    pattern: str
    topic: str
    remedy: str | Callable[[Evidence, str], str]
    """What to do; or what says so, given the evidence and the message."""
    follows: bool = False
    """Whether it is only the consequence of another message."""


def causes(evidence: Evidence) -> list[Finding]:
    """Return the causes that the log names, in its order; none where SNP was enabled later."""
    found = list(_matches(evidence))
    named = [each for each in found if not each[0].follows] or found
    return [
        Finding(
            complaint.topic,
            State.MISSING,
            _named(text),
            _remedy(complaint, evidence, text),
            PURPOSE,
        )
        for complaint, text in named[:MAX_CAUSES]
    ]


def _matches(evidence: Evidence) -> Iterator[tuple[_Complaint, str]]:
    """Yield each kind of message once, and its first line."""
    lines = [_STAMP.sub("", line) for line in evidence.texts("log")]
    done = max((at for at, line in enumerate(lines) if _INITIALISED.search(line)), default=-1)
    told: set[str] = set()
    for at, text in enumerate(lines):
        complaint = next((each for each in _COMPLAINTS if re.search(each.pattern, text)), None)
        if complaint is None or complaint.pattern in told:
            continue
        if complaint.topic == _PSP and at < done:
            continue  # of an attempt before the one that succeeded
        if complaint.pattern == _RESERVED and rmp.unknown_to_kernel(evidence):
            continue  # the memory is there, in a form that this kernel does not know
        told.add(complaint.pattern)
        yield complaint, text


def _named(text: str) -> str:
    """Add the name of a firmware error to a message."""
    match = _FIRMWARE_ERROR.search(text)
    code = int(match[1], 16) if match else 0
    if not code:
        return text.rstrip(".")
    return f"{text} ({fw_error_name(code)})"


def _remedy(complaint: _Complaint, evidence: Evidence, text: str) -> str:
    if isinstance(complaint.remedy, str):
        return complaint.remedy
    return complaint.remedy(evidence, text)


def _init_failed(evidence: Evidence, text: str) -> str:
    """Say what to do of an error of SNP_INIT(_EX)."""
    match = _FIRMWARE_ERROR.search(text)
    code = int(match[1], 16) if match else 0
    off = [
        word
        for word in evidence.texts("cmdline")
        if re.fullmatch(r"nosmt(=force)?|nosmp|maxcpus=.*|nr_cpus=.*", word)
    ]
    if code == SevFwError.INVALID_CONFIG and off:
        return f"boot without {' '.join(off)}: every core and thread must be on"
    if code in (SevFwError.INVALID_CONFIG, SevFwError.HWERROR_PLATFORM):
        return _SETUP
    if code == SevFwError.RMP_INITIALIZATION_FAILED:
        return _COVERAGE
    if code == SevFwError.INVALID_PLATFORM_STATE:
        return "reset the machine: the PSP was left initialised, by kexec or another driver"
    if not code:
        return "the firmware was not reached: see dmesg for ccp and psp; update BIOS"
    return f"see {fw_error_name(code)} in the SEV-SNP firmware ABI (56860); update BIOS and PSP"


def _iommu_mode(evidence: Evidence, text: str) -> str:
    """Say which word of the command line put the IOMMU into a mode that SNP forbids."""
    modes = r"(amd_)?iommu=.*\b(off|pt)\b.*|iommu\.passthrough=(1|y|on)|amd_iommu=.*pgtbl_v2.*"
    words = [word for word in evidence.texts("cmdline") if re.fullmatch(modes, word)]
    if words:
        return f"boot without {' '.join(words)}"
    if "passthrough" in text:
        return "boot with iommu=nopt"
    if "V2" in text:
        return "boot with amd_iommu=pgtbl_v1"
    return "firmware: enable IOMMU"


def _online(evidence: Evidence, _text: str) -> str:
    words = [w for w in evidence.texts("cmdline") if re.match(r"nosm|maxcpus=|nr_cpus=", w)]
    return f"boot without {' '.join(words)}" if words else "boot with all CPUs, none offline"


_RESERVED = r"RMP table has not been reserved"
_RMP, _IOMMU, _PSP = "RMP table", "IOMMU", "PSP firmware"
_COMPLAINTS = (
    _Complaint(_RESERVED, _RMP, _COVERAGE),
    _Complaint(r"SEV-SNP: .*RMP .*does not cover", _RMP, f"{_COVERAGE}; or boot with mem= less"),
    _Complaint(
        r"SEV-SNP: (RMP configuration not valid|RMP segment size|Invalid RMP |RMP segment desc)",
        _RMP,
        "firmware: update, and set up RMP coverage anew",
    ),
    _Complaint(r"SEV-SNP: Failed to map RMP", _RMP, "a kernel bug, or a wrong memory map"),
    _Complaint(r"SNP: IOMMU .*(passthrough|V2 page table|disabled)", _IOMMU, _iommu_mode),
    _Complaint(
        r"SNP: IOMMU SNP feature not enabled",
        _IOMMU,
        "firmware: enable SEV-SNP support of the IOMMU",
    ),
    _Complaint(r"not all CPUs online", "CPUs", _online),
    _Complaint(
        r"SEV-SNP support requires firmware version",
        _PSP,
        "update the firmware: BIOS, or /lib/firmware/amd/amd_sev_*.sbin",
    ),
    _Complaint(r"SEV-SNP: (failed to INIT|SNP_\w+ failed)", _PSP, _init_failed),
    _Complaint(r"timed out, disabling PSP", _PSP, "power the machine off and on; update BIOS"),
    _Complaint(r"sev initialization failed", _PSP, "firmware: enable the PSP (SEV support)"),
    _Complaint(r"SNP: .*cannot be supported", _RMP, "see dmesg for SEV-SNP", follows=True),
    _Complaint(r"SEV: failed to INIT", _PSP, _init_failed, follows=True),
)
"""The first that fits a line counts."""
