# SPDX-License-Identifier: GPL-2.0-only
"""Why SNP is off: what harness/preflight/collect.py found, in lines with a remedy each.

The CPU, then the causes that the kernel's log names (harness/preflight/complaints.py), then all
else in the order in which the kernel decides (6.12 to 7.3: early_detect_mem_encrypt and
bsp_determine_snp in arch/x86/kernel/cpu/amd.c, snp_probe_rmptable_info in
arch/x86/virt/svm/sev.c, iommu_snp_enable in drivers/iommu/amd/init.c, __sev_snp_init_locked in
drivers/crypto/ccp/sev-dev.c, sev_hardware_setup in arch/x86/kvm/svm/sev.c): the first line that
is missing is the one to begin with.

Evidence comes from the machine in question and is not trusted: everything in it is looked up
by type, and shown sanitised.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import Any

from harness.preflight import rmp
from harness.preflight.complaints import causes
from harness.preflight.evidence import Evidence
from harness.preflight.finding import PURPOSE, Finding, State
from harness.report import sanitize

_DENIED = "no permission"
_DMESG = "see dmesg for SEV, SNP, RMP, AMD-Vi and ccp"
SNP_VM = 4
"""KVM_X86_SNP_VM of KVM_CAP_VM_TYPES, arch/x86/include/uapi/asm/kvm.h."""
MINIMUM_API = (1, 51)
"""SNP_MIN_API_MAJOR and _MINOR of drivers/crypto/ccp/sev-dev.c."""
ZEN3 = 0x19
"""CPU family of EPYC 7003 and 9004, the first with SNP."""

_SVM, _SEV, _SEV_ES, _SEV_SNP = 1 << 2, 1 << 1, 1 << 3, 1 << 4
_SYSCFG_SMEE, _HWCR_SMMLOCK, _VM_CR_SVMDIS = 1 << 23, 1 << 0, 1 << 4
_EFR_SNP = 1 << 63


def judge(evidence: dict[str, Any]) -> list[Finding]:
    """Return the findings, causes that the log names first; the last is the verdict."""
    typed = Evidence(evidence)
    works = bool(_vm_types(typed) >> SNP_VM & 1)
    found = list(_findings(typed, works=works))
    if works:
        return [*found, Finding("SNP guests", State.OK, "this machine runs them", "", PURPOSE)]
    first = next((each for each in found if each.state is State.MISSING), None)
    reason = f"{first.topic}: {first.found}" if first else "nothing says why"
    remedy = first.remedy if first else _DMESG
    return [*found, _missing("SNP guests", f"not here: {reason}", remedy)]


def why_not(findings: list[Finding]) -> str | None:
    """Say in one line why SNP guests cannot run, None where they can."""
    if findings[-1].state is State.OK:
        return None
    first = next((each for each in findings[:-1] if each.state is State.MISSING), findings[-1])
    return f"{first.topic}: {first.found}: {first.remedy}" if first.remedy else first.found


def _findings(evidence: Evidence, *, works: bool) -> list[Finding]:
    """Look at the platform, then at what follows from it."""
    found = list(_platform(evidence, works=works))
    sev = _dev_sev(evidence)
    if sev.state is State.MISSING and sev.found != _DENIED:
        found.append(sev)
    found += [_parameter(evidence, name, found) for name in ("sev", "sev_es", "sev_snp")]
    if sev not in found:
        found.append(sev)
    return [*found, _dev_kvm(evidence)]


def _platform(evidence: Evidence, *, works: bool) -> Iterator[Finding]:
    amd = evidence.text("vendor") == "AuthenticAMD"
    yield _cpu(evidence, amd=amd)
    if not amd:
        return
    # Where SNP works, what the log complains of was put right since, or is about something else.
    named = [] if works else causes(evidence)
    yield from named
    topics = {each.topic for each in named}
    for look_at in (_firmware, _iommu, _kernel, _psp):
        yield from (each for each in look_at(evidence) if each.topic not in topics)
    if evidence.get("log") is None:
        yield _unknown("kernel log", "it may not be read", "look as root")


def _ok(topic: str, found: str) -> Finding:
    return Finding(topic, State.OK, found, "", PURPOSE)


def _missing(topic: str, found: str, remedy: str) -> Finding:
    return Finding(topic, State.MISSING, found, remedy, PURPOSE)


def _unknown(topic: str, found: str, remedy: str) -> Finding:
    return Finding(topic, State.UNKNOWN, found, remedy, PURPOSE)


def _cpu(evidence: Evidence, *, amd: bool) -> Finding:
    name = evidence.text("model_name") or evidence.text("machine") or "unknown"
    if not amd:
        return _missing("CPU", f"{name}: not AMD's", "EPYC 7003 or later")
    version, secure = evidence.leaf("0x1"), evidence.leaf("0x8000001f")
    if version is None or secure is None:
        return _unknown("CPU", f"{name}: CPUID cannot be executed", "is executable memory refused?")
    family = (version[0] >> 8 & 0xF) + (version[0] >> 20 & 0xFF)
    if secure[0] & _SEV_SNP:
        return _ok("CPU", f"{name}, family {family:#x}: SEV-SNP")
    if "hypervisor" in evidence.texts("flags"):
        remedy = "a virtual machine: its hypervisor has to offer SNP, which few do"
        return _missing("CPU", f"{name}: CPUID has no SEV-SNP", remedy)
    remedy = "EPYC 7003 or later" if family < ZEN3 else "firmware: enable SEV-SNP (SNP support)"
    return _missing("CPU", f"{name}, family {family:#x}: CPUID has no SEV-SNP", remedy)


def _firmware(evidence: Evidence) -> Iterator[Finding]:
    """What only the firmware's setup can change: registers that it locks."""
    reason = evidence.text("msr", "error")
    if reason:
        remedy = "as root: modprobe msr" if "ermission" not in reason else "look as root"
        yield _unknown("firmware", f"registers cannot be read: {reason}", remedy)
    disabled = evidence.number("msr", "vm_cr")
    if disabled is not None and disabled & _VM_CR_SVMDIS:
        yield _missing("SVM", "disabled (VM_CR.SVMDIS)", "firmware: enable SVM mode")
    config = evidence.number("msr", "syscfg")
    if config is not None:
        if config & _SYSCFG_SMEE:
            yield _ok("memory encryption", "enabled (SYSCFG.SMEE)")
        else:
            remedy = "firmware: enable SMEE (secure memory encryption)"
            yield _missing("memory encryption", "disabled (SYSCFG bit 23)", remedy)
    lock = evidence.number("msr", "hwcr")
    if lock is not None and not lock & _HWCR_SMMLOCK:
        yield _missing(
            "SMM lock", "SMM is not locked (HWCR bit 0)", "firmware: update, SMM lock on"
        )
    if table := rmp.finding(evidence):
        yield table
    secure = evidence.leaf("0x8000001f")
    if secure is not None and secure[0] & _SEV_ES:
        if secure[3] > 1:
            yield _ok("ASIDs", f"{secure[3] - 1} for SEV-ES and SNP, {secure[2]} in all")
        else:
            remedy = "firmware: SEV-ES ASID space limit above 1"
            yield _missing("ASIDs", "none for SEV-ES and SNP", remedy)


def _iommu(evidence: Evidence) -> Iterator[Finding]:
    for word in evidence.texts("cmdline"):
        if re.fullmatch(r"(amd_)?iommu=.*\boff\b.*", word):
            yield _missing("IOMMU", f"switched off by {word}", f"boot without {word}")
            return
    features = evidence.texts("iommu", "features")
    if not features:
        remedy = "firmware: enable IOMMU; kernel: CONFIG_AMD_IOMMU"
        yield _missing("IOMMU", "none is used (no /sys/class/iommu/ivhd*)", remedy)
        return
    first = features[0].partition(":")[0]
    known = int(first, 16) if re.fullmatch(r"[0-9a-f]{1,16}", first) else None
    if known is None:
        yield _unknown("IOMMU", f"its features are not understood: {features[0]}", "see dmesg")
    elif not known & _EFR_SNP:
        remedy = "firmware: update, and enable SNP support there"
        yield _missing("IOMMU", "it does not support SNP (EFR bit 63)", remedy)
    else:
        yield _ok("IOMMU", f"{len(features)} that support SNP")


def _kernel(evidence: Evidence) -> Iterator[Finding]:
    release = evidence.text("release")
    config = evidence.get("config")
    if isinstance(config, dict):
        lacking = [
            sanitize.line(str(name), 60) for name in config if config[name] not in ("y", "m")
        ]
        if lacking:
            found = f"{release} has no {', '.join(lacking)}"
            yield _missing("kernel", found, "a kernel with these set")
        else:
            yield _ok("kernel", f"{release}: configured for it")
    else:
        yield _unknown("kernel", f"{release}: its configuration is nowhere", "see /boot/config-*")
    for word in evidence.texts("cmdline"):
        if re.fullmatch(r"sev=.*nosnp.*|mem_encrypt=off|maxcpus=.*|nosmp|nr_cpus=\d+", word):
            remedy = f"boot without {word}"
            yield _missing("command line", f"{word} keeps SNP off", remedy)
    if evidence.text("modules", "parameters", "kvm.mmio_caching") == "N":
        remedy = "boot without kvm.mmio_caching=0"
        yield _missing("kvm.mmio_caching", "N, which SEV-ES and SNP need", remedy)


def _parameter(evidence: Evidence, name: str, before: list[Finding]) -> Finding:
    """Judge a parameter of kvm_amd; `before` may have the cause why it is off."""
    topic = f"kvm_amd.{name}"
    value = evidence.text("modules", "parameters", topic)
    if value in ("Y", "1"):
        return _ok(topic, value)
    if evidence.text("vendor") != "AuthenticAMD":
        return _missing(topic, "kvm_amd is not loaded", "follows from CPU above")
    if "kvm_amd" not in evidence.texts("modules", "loaded"):
        return _missing(topic, "kvm_amd is not loaded", "modprobe kvm_amd; see dmesg")
    if not value:
        return _missing(topic, "no such parameter", "a kernel with the SNP host patches (6.11)")
    off = re.compile(rf"\b{name}=(0|n|N|off)\b")
    for word in evidence.texts("cmdline"):
        if word.startswith("kvm_amd.") and off.search(word):
            return _missing(topic, f"{value}, by {word}", f"boot without {word}")
    for line in evidence.texts("modules", "modprobe"):
        if "kvm" in line and off.search(line):
            return _missing(topic, f"{value}, by {line}", "take that out and load kvm_amd again")
    if cause := next((each for each in before if each.state is State.MISSING), None):
        return _missing(topic, value, f"follows from {cause.topic} above")
    unread = [each.topic for each in before if each.state is State.UNKNOWN]
    if unread:
        remedy = f"nothing that could be read says why; {', '.join(unread)} could not be"
        return _missing(topic, value, remedy)
    return _missing(topic, value, f"nothing here says why: {_DMESG}")


def _psp(evidence: Evidence) -> Iterator[Finding]:
    topic = "PSP firmware"
    api, build = evidence.get("sev", "sev", "api"), evidence.number("sev", "sev", "build")
    if not (isinstance(api, list) and len(api) == 2 and all(type(part) is int for part in api)):
        logged = _logged_api(evidence)
        if logged is None:
            yield _unknown(topic, "its version is not known", "see /dev/sev, and dmesg for ccp")
            return
        api, build = list(logged), None
    version = f"API {api[0]}.{api[1]}" + (f" build {build}" if build is not None else "")
    if tuple(api) < MINIMUM_API:
        least = ".".join(map(str, MINIMUM_API))
        remedy = "update the firmware, or /lib/firmware/amd/amd_sev_*.sbin, and reload ccp"
        yield _missing(topic, f"{version}: too old, SNP needs {least}", remedy)
        return
    snp = evidence.get("sev", "snp")
    if isinstance(snp, dict) and snp.get("state") == 1:
        yield _ok(topic, f"{version}, SNP initialised")
    else:
        # Loaded, KVM initialises it; from 6.15 on only KVM does.
        yield _ok(topic, f"{version}, SNP not initialised yet")


def _logged_api(evidence: Evidence) -> tuple[int, int] | None:
    for line in reversed(evidence.texts("log")):
        if match := re.search(r"\bSEV(?:-SNP)? API:(\d{1,3})\.(\d{1,3})", line):
            return int(match[1]), int(match[2])
    return None


def _dev_sev(evidence: Evidence) -> Finding:
    code = evidence.number("sev", "error")
    topic = "/dev/sev"
    if code is None:
        return _ok(topic, "there")
    if code == errno.ENOENT and evidence.text("vendor") != "AuthenticAMD":
        return _missing(topic, "not there", "follows from CPU above")
    if code == errno.ENOENT:
        return _missing(topic, "not there", "modprobe ccp; see dmesg for ccp and psp")
    if code in (errno.EACCES, errno.EPERM):
        return _missing(topic, _DENIED, "run as root")
    return _missing(topic, evidence.text("sev", "text") or "it cannot be opened", "see dmesg")


def _dev_kvm(evidence: Evidence) -> Finding:
    code = evidence.number("kvm", "error")
    topic = "/dev/kvm"
    if code is None:
        snp = "" if _vm_types(evidence) >> SNP_VM & 1 else "no "
        return _ok(topic, f"there, makes {snp}SNP VMs")
    if code == errno.ENOENT:
        if evidence.text("vendor") != "AuthenticAMD":
            return _missing(topic, "not there", "follows from CPU above")
        svm = "svm" in evidence.texts("flags")
        remedy = "modprobe kvm_amd; see dmesg" if svm else "firmware: enable SVM mode"
        return _missing(topic, "not there", remedy)
    if code in (errno.EACCES, errno.EPERM):
        return _missing(topic, _DENIED, "adduser $USER kvm, then log in again; or root")
    return _missing(topic, evidence.text("kvm", "text") or "it cannot be opened", "see dmesg")


def _vm_types(evidence: Evidence) -> int:
    return evidence.number("kvm", "types") or 0
