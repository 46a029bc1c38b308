# SPDX-License-Identifier: GPL-2.0-only
"""Why SNP is off, where the kernel's log says it: its words, and what the verdict makes of them.

The messages are those of Linux 6.12 and 6.14 (arch/x86/virt/svm/sev.c, drivers/iommu/amd/init.c,
drivers/crypto/ccp/sev-dev.c); several of the logs are as users reported them to the AMDSEV project.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.preflight import examine
from harness.preflight.finding import Finding, State
from harness.preflight.judge import judge, why_not

READY: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "preflight" / "ready.json").read_text()
)
CONTIGUOUS = "SEV-SNP: RMP table physical range [0x0000007e00000000 - 0x0000007e407fffff]"
SEGMENTED = [
    "SEV-SNP: Segmented RMP base table physical range [0x000000009ba00000 - 0x000000009ba05000]",
    "SEV-SNP: Segmented RMP using 128GB segments",
    "SEV-SNP: RMP segment 0 physical address [0x8800000 - 0x10ffffff] covering [0x0 - 0x87fffffff]",
]
IOMMU = "AMD-Vi: IOMMU SNP support enabled."
SNP_ON = [
    "ccp 0000:a9:00.5: SEV-SNP API:1.58 build:5",
    "kvm_amd: SEV-SNP enabled (ASIDs 1 - 98)",
]
SEV_FAILED = "ccp 0000:42:00.1: SEV: failed to INIT error 0x1, rc -5"
API = "ccp 0000:42:00.1: SEV API:1.55 build:7"
NO_RMP = "SEV-SNP: Memory for the RMP table has not been reserved by BIOS"

TURIN: dict[str, Any] = {
    # 8000001F EAX[23]: segmented RMPs; segments of 2^32 to 2^40 bytes; 2^37 of them is 128 GiB.
    "cpuid": {"0x8000001f": [16907583 | 1 << 23, 16755, 1006, 99], "0x80000025": [32 | 40 << 6]},
    "msr": {"rmp_base": 0x9BA00000, "rmp_end": 0, "rmp_cfg": 37 << 8 | 1},
}


@dataclass(frozen=True)
class Sample:
    """A machine whose SNP is off, and what has to be said first."""

    log: list[str]
    topic: str
    found: str
    remedy: str
    machine: dict[str, Any] = field(default_factory=dict)


SAMPLES = {
    "the table is too short": Sample(
        [
            CONTIGUOUS,
            "SEV-SNP: Memory reserved for the RMP table does not cover full system RAM "
            "(expected 0x40800000 got 0x20000000)",
            "AMD-Vi: SNP: RMP initialization failed, SNP cannot be supported.",
        ],
        "RMP table",
        "does not cover full system RAM (expected 0x40800000 got 0x20000000)",
        "coverage for all memory",
    ),
    "the segments are too few": Sample(
        [
            *SEGMENTED,
            "SEV-SNP: Segmented RMP does not cover full system RAM "
            "(expected 0x2080000000 got 0x880000000)",
            "AMD-Vi: SNP: RMP initialization failed, SNP cannot be supported.",
        ],
        "RMP table",
        "Segmented RMP does not cover full system RAM",
        "coverage for all memory",
        TURIN,
    ),
    "segments of a size that the CPU does not take": Sample(
        ["SEV-SNP: RMP segment size (30) is not within advertised bounds (min=32, max=40)"],
        "RMP table",
        "RMP segment size (30) is not within advertised bounds (min=32, max=40)",
        "firmware: update",
        {**TURIN, "msr": {**TURIN["msr"], "rmp_cfg": 30 << 8 | 1}},
    ),
    "a kernel before 6.14 on a segmented RMP": Sample(
        [NO_RMP],
        "RMP table",
        "segmented, which this kernel (6.12) does not know",
        "Linux 6.14 or later; or firmware: split RMP table disabled",
        TURIN,
    ),
    "no table": Sample(
        [NO_RMP],
        "RMP table",
        NO_RMP,
        "firmware: SNP memory (RMP table) coverage",
        {"msr": {"rmp_base": 0, "rmp_end": 0x1FFF}},
    ),
    "SNP_INIT failed with error 0x3": Sample(
        [CONTIGUOUS, "ccp 0000:42:00.1: SEV-SNP: failed to INIT rc -5, error 0x3", SEV_FAILED, API],
        "PSP firmware",
        "SEV-SNP: failed to INIT rc -5, error 0x3 (SEV_RET_INVALID_CONFIG)",
        "SEV-SNP support (of CPU and of IOMMU)",
    ),
    "SNP_INIT_EX failed, as newer kernels say it": Sample(
        [
            *SEGMENTED,
            IOMMU,
            "ccp 0000:42:00.1: SEV-SNP: SNP_INIT_EX failed rc -5, error 0x26",
        ],
        "PSP firmware",
        "SNP_INIT_EX failed rc -5, error 0x26 (SEV_RET_RMP_INITIALIZATION_FAILED)",
        "coverage",
        TURIN,
    ),
    "error 0x3 of a machine without SMT": Sample(
        ["ccp 0000:49:00.1: SEV-SNP: failed to INIT rc -5, error 0x3", SEV_FAILED],
        "PSP firmware",
        "SEV_RET_INVALID_CONFIG",
        "boot without nosmt=force: every core and thread must be on",
        {"cmdline": ["nosmt=force"]},
    ),
    "error 0x13": Sample(
        ["ccp 0000:23:00.1: SEV-SNP: failed to INIT error 0x13"],
        "PSP firmware",
        "error 0x13 (SEV_RET_HWSEV_RET_PLATFORM)",
        "of IOMMU",
    ),
    "an error that the ABI does not know": Sample(
        ["ccp 0000:23:00.1: SEV-SNP: failed to INIT rc -5, error 0x9003"],
        "PSP firmware",
        "error 0x9003 (firmware error 0x9003)",
        "firmware ABI (56860)",
    ),
    "the firmware was not reached": Sample(
        ["ccp 0000:23:00.1: SEV-SNP: failed to INIT rc -19, error 0x0"],
        "PSP firmware",
        "failed to INIT rc -19, error 0x0",
        "the firmware was not reached",
    ),
    "the firmware hangs": Sample(
        ["ccp 0000:23:00.1: sev command 0x85 timed out, disabling PSP"],
        "PSP firmware",
        "sev command 0x85 timed out, disabling PSP",
        "power the machine off and on",
    ),
    "the firmware is too old": Sample(
        [CONTIGUOUS, IOMMU, "ccp 0000:22:00.1: SEV API:1.49 build:3"],
        "PSP firmware",
        "API 1.49: too old, SNP needs 1.51",
        "update the firmware",
        {"sev": {"error": 13}},
    ),
    "IOMMU in passthrough mode": Sample(
        [
            CONTIGUOUS,
            "AMD-Vi: SNP: IOMMU disabled or configured in passthrough mode, "
            "SNP cannot be supported.",
        ],
        "IOMMU",
        "passthrough mode, SNP cannot be supported",
        "boot without iommu=pt",
        {"cmdline": ["iommu=pt"]},
    ),
    "IOMMU with v2 page tables": Sample(
        [
            "AMD-Vi: SNP: IOMMU is configured with V2 page table mode, SNP cannot be supported.",
        ],
        "IOMMU",
        "V2 page table mode",
        "boot without amd_iommu=pgtbl_v2",
        {"cmdline": ["amd_iommu=pgtbl_v2"]},
    ),
    "IOMMU without SNP": Sample(
        ["AMD-Vi: SNP: IOMMU SNP feature not enabled, SNP cannot be supported."],
        "IOMMU",
        "IOMMU SNP feature not enabled",
        "firmware: enable SEV-SNP support of the IOMMU",
    ),
    "CPUs that are not online": Sample(
        ["ccp 0000:22:00.1: SEV-SNP: SNP init failed: not all CPUs online"],
        "CPUs",
        "not all CPUs online",
        "boot without maxcpus=4",
        {"cmdline": ["maxcpus=4"]},
    ),
    "only a consequence is left of the log": Sample(
        ["AMD-Vi: SNP: RMP initialization failed, SNP cannot be supported."],
        "RMP table",
        "RMP initialization failed",
        "see dmesg",
    ),
}


def machine(log: list[str], changes: dict[str, Any], *, snp: bool) -> dict[str, Any]:
    """Return the evidence of a machine that is ready but for the changes."""
    evidence = copy.deepcopy(READY)
    for name, value in changes.items():
        if name in ("cpuid", "msr"):
            padded = {
                leaf: [*each, *[0] * (4 - len(each))] if isinstance(each, list) else each
                for leaf, each in value.items()
            }
            evidence[name].update(padded)
        else:
            evidence[name] = value
    evidence["log"] = [f"[{at:12.6f}] {line}" for at, line in enumerate(log)]
    if not snp:
        evidence["modules"]["parameters"]["kvm_amd.sev_snp"] = "N"
        evidence["kvm"] = {"types": 0b11}
    return evidence


def missing(findings: list[Finding]) -> list[Finding]:
    return [each for each in findings[:-1] if each.state is State.MISSING]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_cause_that_the_log_names_is_the_verdict(name: str) -> None:
    sample = SAMPLES[name]
    findings = judge(machine(sample.log, sample.machine, snp=False))
    first = missing(findings)[0]
    assert first.topic == sample.topic, findings
    assert sample.found in first.found
    assert sample.remedy in first.remedy
    verdict = findings[-1]
    assert verdict.state is State.MISSING
    assert (first.found in verdict.found, verdict.remedy) == (True, first.remedy)
    assert sample.found in (why_not(findings) or "")


@pytest.mark.parametrize("name", SAMPLES)
def test_what_follows_is_said_to_follow(name: str) -> None:
    """`above` is only said where something stands above; one cause is told once."""
    sample = SAMPLES[name]
    findings = judge(machine(sample.log, sample.machine, snp=False))
    parameter = next(each for each in findings if each.topic == "kvm_amd.sev_snp")
    assert parameter.remedy == f"follows from {missing(findings)[0].topic} above"
    assert findings.index(parameter) > findings.index(missing(findings)[0])
    causes = [each for each in missing(findings) if each.topic == sample.topic]
    assert len(causes) == 1, causes


def test_a_segmented_rmp_that_works() -> None:
    findings = judge(machine([*SEGMENTED, IOMMU, *SNP_ON], TURIN, snp=True))
    assert {each.state for each in findings} == {State.OK}, findings
    table = next(each for each in findings if each.topic == "RMP table")
    assert table.found == "segmented, 128 GiB a segment"
    assert why_not(findings) is None


def test_a_segmented_rmp_is_not_blamed_for_something_else() -> None:
    findings = judge(
        machine(
            [*SEGMENTED, "ccp 0000:a9:00.5: SEV-SNP: SNP_INIT_EX failed rc -5, error 0x3"],
            TURIN,
            snp=False,
        )
    )
    assert (why_not(findings) or "").startswith("PSP firmware: ccp 0000:a9:00.5: SEV-SNP: SNP_INIT")
    assert "RMP table" not in {each.topic for each in missing(findings)}


def test_a_register_that_cannot_be_read_is_no_missing_table() -> None:
    """RMP_END is 0 on a CPU that may have segments: nobody knows without RMP_CFG."""
    changes = {**TURIN, "msr": {**TURIN["msr"], "rmp_cfg": None}}
    findings = judge(machine(SEGMENTED, changes, snp=False))
    assert next(each for each in findings if each.topic == "RMP table").state is State.UNKNOWN


def test_a_machine_without_segments_has_no_register_for_them() -> None:
    """The attempt to read RMP_CFG of a Milan fails; its table is there all the same."""
    evidence = machine([CONTIGUOUS], {"msr": {"rmp_cfg": None}}, snp=True)
    assert why_not(judge(evidence)) is None


def test_nothing_says_why() -> None:
    findings = judge(machine([CONTIGUOUS, IOMMU], {}, snp=False))
    parameter = next(each for each in findings if each.topic == "kvm_amd.sev_snp")
    assert parameter.remedy.startswith("nothing here says why: see dmesg")
    assert "above" not in f"{findings}"


def test_nothing_that_could_be_read_says_why() -> None:
    evidence = machine([], {"msr": {"error": "Permission denied"}}, snp=False)
    evidence["log"] = None
    findings = judge(evidence)
    parameter = next(each for each in findings if each.topic == "kvm_amd.sev_snp")
    assert "firmware, kernel log could not be" in parameter.remedy


def test_an_attempt_that_succeeded_later_is_no_cause() -> None:
    """Ccp loaded again with newer firmware: the error before is history."""
    log = [
        CONTIGUOUS,
        "ccp 0000:42:00.1: SEV-SNP: failed to INIT rc -5, error 0x3",
        SEV_FAILED,
        "ccp 0000:42:00.1: SEV-SNP API:1.55 build:21",
    ]
    assert why_not(judge(machine(log, {}, snp=True))) is None
    off = judge(machine(log, {"modules": _switched_off()}, snp=False))
    assert (why_not(off) or "").startswith("kvm_amd.sev_snp: N, by /etc/modprobe.d/kvm.conf")


def _switched_off() -> dict[str, Any]:
    modules = copy.deepcopy(READY["modules"])
    modules["modprobe"] = ["/etc/modprobe.d/kvm.conf: options kvm_amd sev_snp=0"]
    return dict(modules)


def test_a_log_full_of_faults_hides_neither_its_begin_nor_its_end() -> None:
    """The collector runs by itself on its host: its source is taken here, without its last line."""
    source = (Path(examine.__file__).parent / "collect.py").read_text()
    body, _, last = source.rstrip().rpartition("\n")
    assert last.startswith("main(")
    names: dict[str, Any] = {"__name__": "collect"}
    exec(compile(body, "collect.py", "exec"), names)
    faults = b"<6>[ 5.0] AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0000]\n" * 500
    raw = f"<6>[ 0.0] {NO_RMP}\n".encode() + faults + f"<6>[ 9.0] {SNP_ON[0]}\n".encode()
    lines = names["chosen"](raw)
    assert len(lines) == 80
    assert (lines[0], lines[-1]) == (f"[ 0.0] {NO_RMP}", f"[ 9.0] {SNP_ON[0]}")
