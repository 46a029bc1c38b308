# SPDX-License-Identifier: GPL-2.0-only
"""Why SNP is off: each reason told in one line with a remedy, here, on a host, on the machine."""

from __future__ import annotations

import copy
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.doctor import show
from harness.preflight import examine
from harness.preflight.finding import Finding, State
from harness.preflight.judge import judge, why_not
from harness.ssh import examine as remote
from harness.ssh import hosts
from harness.ssh.connection import Connection
from tests.sshd import Sshd, sshd

__all__ = ["sshd"]

DATA = Path(__file__).parent / "data" / "preflight"
READY: dict[str, Any] = json.loads((DATA / "ready.json").read_text())
"""What an EPYC 7003 that runs SNP guests would give, after the manuals and the kernel's source."""


def changed(path: str, value: object) -> dict[str, Any]:
    """Return the evidence of a machine that differs from READY in one thing."""
    evidence = copy.deepcopy(READY)
    at: Any = evidence
    *names, last = path.split("/")
    for name in names:
        at = at[name]
    at[last] = value
    return evidence


def off(evidence: dict[str, Any]) -> dict[str, Any]:
    """Say that KVM makes no SNP VMs, as it is where anything else is wrong."""
    evidence["kvm"] = {"types": 0b11} if "types" in evidence["kvm"] else evidence["kvm"]
    parameters = evidence["modules"]["parameters"]
    if parameters["kvm_amd.sev_snp"] == "Y":
        parameters["kvm_amd.sev_snp"] = "N"
    return evidence


def first(findings: list[Finding]) -> Finding:
    return next(each for each in findings if each.state is State.MISSING)


def test_a_machine_that_is_ready() -> None:
    findings = judge(READY)
    assert {each.state for each in findings} == {State.OK}, findings
    assert why_not(findings) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("machine-7.3", None),
        (
            "machine-7.3-iommu-off",
            "IOMMU: switched off by amd_iommu=off: boot without amd_iommu=off",
        ),
        (
            "machine-7.3-iommu-pt",
            "IOMMU: AMD-Vi: SNP: IOMMU configured in passthrough mode, SNP cannot be supported: "
            "boot without",
        ),
        ("machine-7.3-sev_snp-off", "kvm_amd.sev_snp: N, by kvm_amd.sev_snp=0: boot without"),
    ],
)
def test_what_real_kernels_say(name: str, why: str | None) -> None:
    """Evidence of kernels on the SNP machine, which has what the firmware sets up."""
    evidence = json.loads((DATA / f"{name}.json").read_text())
    found = why_not(judge(evidence))
    assert found is None if why is None else (found or "").startswith(why), found


LOG = READY["log"]
CASES: list[tuple[str, object, str, str, str]] = [
    ("vendor", "GenuineIntel", "CPU", "not AMD's", "EPYC 7003"),
    ("cpuid/0x8000001f", [0x1000F, 0, 509, 1], "CPU", "CPUID has no SEV-SNP", "firmware: enable"),
    ("msr/vm_cr", 0x10, "SVM", "VM_CR.SVMDIS", "firmware: enable SVM"),
    ("msr/syscfg", 0x740000, "memory encryption", "SYSCFG bit 23", "firmware: enable SMEE"),
    ("msr/hwcr", 0x9000010, "SMM lock", "not locked", "firmware"),
    ("msr/rmp_base", 0, "RMP table", "no memory reserved", "firmware: SNP memory"),
    ("cpuid/0x8000001f", [0x1001F, 0, 509, 1], "ASIDs", "none for SEV-ES", "ASID space limit"),
    ("cmdline", ["amd_iommu=off"], "IOMMU", "switched off by amd_iommu=off", "without amd_iommu"),
    ("cmdline", ["iommu=off"], "IOMMU", "switched off by iommu=off", "boot without iommu=off"),
    ("iommu/features", [], "IOMMU", "none is used", "firmware: enable IOMMU"),
    ("iommu/features", ["246577efa2254afa:0"], "IOMMU", "does not support SNP", "firmware"),
    (
        "log",
        [
            *LOG,
            "[ 1.0] SNP: IOMMU configured in passthrough mode, SNP cannot be supported.",
        ],
        "IOMMU",
        "passthrough",
        "boot with iommu=nopt",
    ),
    ("config/CONFIG_KVM_AMD_SEV", "n", "kernel", "no CONFIG_KVM_AMD_SEV", "a kernel with"),
    ("cmdline", ["sev=nosnp"], "command line", "sev=nosnp keeps SNP off", "without sev=nosnp"),
    ("cmdline", ["maxcpus=4"], "command line", "maxcpus=4", "boot without maxcpus=4"),
    ("modules/parameters/kvm.mmio_caching", "N", "kvm.mmio_caching", "N", "mmio_caching=0"),
    ("modules/parameters/kvm_amd.sev_snp", None, "kvm_amd.sev_snp", "no such", "6.11"),
    ("cmdline", ["kvm_amd.sev_snp=0"], "kvm_amd.sev_snp", "N, by kvm_amd.sev_snp=0", "without"),
    (
        "modules/modprobe",
        ["/etc/modprobe.d/kvm.conf: options kvm_amd sev_snp=0"],
        "kvm_amd.sev_snp",
        "by /etc/modprobe.d/kvm.conf",
        "take that out",
    ),
    ("sev/sev/api", [1, 49], "PSP firmware", "API 1.49 build 3: too old", "update the firmware"),
    ("sev", {"error": errno.ENOENT}, "/dev/sev", "not there", "modprobe ccp"),
    ("sev", {"error": errno.EACCES}, "/dev/sev", "no permission", "root"),
    ("sev", {"error": 0, "text": "no answer within 10 s"}, "/dev/sev", "no answer", "dmesg"),
    ("kvm", {"error": errno.ENOENT}, "/dev/kvm", "not there", "modprobe kvm_amd"),
    ("kvm", {"error": errno.EACCES}, "/dev/kvm", "no permission", "group|adduser|root"),
    (
        "log",
        ["[ 0.1] SEV-SNP: Memory reserved for the RMP table does not cover full system RAM (exp"],
        "RMP table",
        "does not cover full system RAM",
        "coverage for all memory",
    ),
    ("log", ["ccp 0000:22:00.1: sev initialization failed"], "PSP firmware", "sev init", "PSP"),
]


@pytest.mark.parametrize(
    ("path", "value", "topic", "found", "remedy"),
    CASES,
    ids=lambda value: str(value)[:40],
)
def test_each_reason_has_a_line_and_a_remedy(
    path: str, value: object, topic: str, found: str, remedy: str
) -> None:
    findings = judge(off(changed(path, value)))
    wrong = [each for each in findings if each.state is State.MISSING and each.topic == topic]
    assert wrong, findings
    assert found in wrong[0].found
    assert any(word in wrong[0].remedy for word in remedy.split("|"))
    assert "\n" not in f"{wrong[0].found}{wrong[0].remedy}"
    # What follows from it is told, too, but comes behind it.
    consequences = ("kvm_amd.sev_snp", topic)
    before = findings[: findings.index(wrong[0])]
    assert all(each.state is State.OK or each.topic in consequences for each in before), before
    assert findings[-1].state is State.MISSING
    assert why_not(findings)


def test_kvm_amd_that_is_not_loaded() -> None:
    evidence = changed("modules/loaded", ["kvm"])
    evidence["modules"]["parameters"] = dict.fromkeys(evidence["modules"]["parameters"])
    assert first(judge(off(evidence))).found == "kvm_amd is not loaded"


def test_what_cannot_be_read_is_unknown_not_wrong() -> None:
    """Without root: no registers, no log; the rest still counts."""
    evidence = changed("msr", {"error": "Permission denied"})
    evidence |= {"log": None, "config": None, "cpuid": None}
    findings = judge(evidence)
    unknown = {each.topic: each for each in findings if each.state is State.UNKNOWN}
    assert unknown.keys() == {"CPU", "firmware", "kernel", "kernel log"}
    assert unknown["firmware"].remedy == "look as root"
    assert why_not(findings) is None, "KVM itself says that it makes SNP VMs"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just("\x1b[31mN\n"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_evidence_of_any_type_is_judged(data: st.DataObject) -> None:
    """A hostile machine may send anything: it gets lines that are safe to show."""
    evidence = copy.deepcopy(READY)
    for _ in range(3):
        at: Any = evidence
        while True:
            key = data.draw(st.sampled_from(sorted(at)))
            if isinstance(at[key], dict) and at[key] and data.draw(st.booleans()):
                at = at[key]
                continue
            at[key] = data.draw(json_values)
            break
    for finding in judge(evidence):
        assert "\x1b" not in f"{finding}"
        assert "\n" not in finding.found


def test_this_machine_is_examined() -> None:
    findings = examine.here()
    assert findings[-1].topic == "SNP guests"
    assert {"CPU", "kvm_amd.sev_snp", "/dev/sev", "/dev/kvm"} <= {each.topic for each in findings}
    has = os.path.exists("/dev/kvm")
    kvm = next(each for each in findings if each.topic == "/dev/kvm")
    assert (kvm.state is State.OK) is has


def test_a_host_is_examined_by_the_same_program(
    sshd: Sshd, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Connection(hosts.get("box"))
    findings, evidence = remote.examine(opened)
    opened.close()
    assert evidence["release"] == os.uname().release
    assert findings == examine.here()
    code = show("box")
    out = capsys.readouterr().out
    assert code == (3 if why_not(findings) else 0)
    assert "box" in out
    assert findings[0].topic in out
