# SPDX-License-Identifier: GPL-2.0-only
"""Holds harness.uapi against the kernel's own headers, and against the specifications.

tests/data/uapi-6.12.json is what a compiler said about Linux 6.12 (see tests.uapi_headers).
With SNPTEST_KERNEL_SOURCE set to a source tree the compiler is asked again.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness import backends
from harness.probe import probe
from harness.target import Target
from harness.uapi import errors, ghcb, ioctls, kvm, layout, sev, vmsa
from harness.uapi.interfaces import (
    INTERFACES,
    LINUX_7_3,
    MERGED,
    PROBE_COMMANDS,
    SINCE,
    V12,
    PscExit,
    identify,
    of_release,
)
from tests import uapi_headers

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "data/uapi-6.12.json").read_text())

# Not of 6.12: v12's, later kernels', the firmware's.  Everything else must be in the record.
UNRECORDED_STRUCTS = {
    name
    for name in uapi_headers.structs()
    if name.endswith("_v12")
    or name.startswith(("kvm_user_vmgexit", "kvm_vcpu_events_", "kvm_run_", "sev_id_", "sev_ecdsa"))
} | {
    "kvm_exit_snp_req_certs",
    "psc_buffer",  # the kernel's ends in a flexible array
    "sev_user_data_snp_pause_attestation",
    "snp_attestation_report",
    "snp_cert_table_entry",
    "snp_derived_key_rsp",
    "snp_report_resp_hdr",
    "tcb_version",
}

UNRECORDED_CONSTANTS = {
    "KVM_EXIT_VMGEXIT",
    "KVM_USER_VMGEXIT_PSC_MSR",
    "KVM_USER_VMGEXIT_PSC",
    "KVM_USER_VMGEXIT_EXT_GUEST_REQ",
    "KVM_USER_VMGEXIT_PSC_MSR_OP_PRIVATE",
    "KVM_USER_VMGEXIT_PSC_MSR_OP_SHARED",
    "KVM_SEV_SNP_LAUNCH_START_v12",
    "KVM_SEV_SNP_LAUNCH_UPDATE_v12",
    "KVM_SEV_SNP_LAUNCH_FINISH_v12",
    "SNP_PAUSE_ATTESTATION",
    "SNP_RESUME_ATTESTATION",
    "SNP_GUEST_VMM_ERR_GENERIC_v12",
    "KVM_EXIT_SNP_REQ_CERTS",
    "KVM_X86_SNP_POLICY_BITS",
    "KVM_X86_SEV_SNP_REQ_CERTS",
    "KVM_SEV_SNP_ENABLE_REQ_CERTS",
    "SNP_GUEST_VMM_ERR_GENERIC",
    "SEV_CURVE_P384",
    "SEV_ALGO_ECDSA_P384_SHA384",
    "SEV_RET_HWERROR_PLATFORM",
    "SEV_RET_HWERROR_UNSAFE",
    "SNP_POLICY_MASK_MIGRATE_MA",
    "SNP_POLICY_MASK_CXL_ALLOW",
    "SNP_POLICY_MASK_MEM_AES_256_XTS",
    "SNP_POLICY_MASK_RAPL_DIS",
    "SNP_POLICY_MASK_CIPHERTEXT_HIDING_DRAM",
    "SNP_POLICY_MASK_PAGE_SWAP_DISABLE",
    "SNP_GUEST_MSG_PAYLOAD_MAX",
    "SNP_REPORT_SIGNED_SIZE",
    "SNP_REPORT_SIGNING_KEY_VCEK",
    "SNP_REPORT_SIGNING_KEY_VLEK",
    "SNP_REPORT_SIGNING_KEY_NONE",
    "SNP_PLATFORM_INFO_SMT_EN",
    "SNP_PLATFORM_INFO_TSME_EN",
    "RMPADJUST_FAIL_INPUT",
    "RMPADJUST_FAIL_PERMISSION",
    "RMPADJUST_FAIL_SIZEMISMATCH",
    "SVM_EXIT_PAGE_NOT_VALIDATED",
    "VMSA_SIZE",
    "SVM_SEV_FEAT_VTOM",
    "SVM_SEV_FEAT_REFLECT_VC",
    "SVM_SEV_FEAT_PREVENT_HOST_IBS",
    "SVM_SEV_FEAT_BTB_ISOLATION",
    "SVM_SEV_FEAT_VMPL_SSS",
    "SVM_SEV_FEAT_SECURE_TSC",
    "SVM_SEV_FEAT_VMSA_REG_PROT",
    "SVM_SEV_FEAT_SMT_PROTECTION",
    "SVM_VMGEXIT_GET_APIC_IDS",
    "GHCB_HV_FT_SNP_RESTRICTED_INJECTION",
    "GHCB_HV_FT_SNP_RESTRICTED_INJECTION_TIMER",
    "GHCB_HV_FT_APIC_ID_LIST",
    "GHCB_SW_EXITINFO1_OK",
    "GHCB_SW_EXITINFO1_EXCEPTION",
    "GHCB_SW_EXITINFO1_MALFORMED_INPUT",
    "VMGEXIT_PSC_OP_PSMASH",
    "VMGEXIT_PSC_OP_UNSMASH",
}
"""v12's; later kernels'; the firmware's; the manual's; the GHCB specification's."""


def wrong(answers: dict[str, Any]) -> dict[str, str]:
    """Answers that are not ours, with both."""
    return {
        key: f"header {theirs}, ours {mine}"
        for key, theirs in answers.items()
        if (mine := uapi_headers.ours(key)) != theirs
    }


@pytest.mark.parametrize("kind", ["sizeof", "offsetof", "bits", "const"])
def test_layout_is_that_of_linux_6_12(kind: str) -> None:
    answers = {key: value for key, value in GOLDEN.items() if key.startswith(f"{kind}:")}
    assert len(answers) > 20
    assert wrong(answers) == {}


def test_every_structure_is_in_the_record() -> None:
    recorded = {key.split(":")[1] for key in GOLDEN if key.startswith("sizeof:")}
    assert set(uapi_headers.structs()) - recorded == UNRECORDED_STRUCTS


def test_every_constant_is_in_the_record() -> None:
    """A name the kernel does not know would never be compared; each such one is accounted for."""
    missing = {name for name in uapi_headers.constants() if f"const:{name}" not in GOLDEN}
    assert missing == UNRECORDED_CONSTANTS


def test_layout_is_that_of_the_source_tree() -> None:
    source = os.environ.get("SNPTEST_KERNEL_SOURCE")
    if not source:
        pytest.skip("SNPTEST_KERNEL_SOURCE names no kernel source tree")
    if not shutil.which("gcc"):
        pytest.skip("no gcc to read the kernel's headers with")
    answers = uapi_headers.ask(Path(source).absolute())
    assert len(answers) > 1000
    assert wrong(answers) == {}


@pytest.mark.parametrize(
    ("cls", "size", "offsets"),
    [
        # v12: patches 10, 11, 12, 14, 15, 28 and 29 of 29, as gcc lays them out on x86-64.
        (sev.kvm_sev_snp_launch_start_v12, 24, {"policy": 0, "gosvw": 8}),
        (sev.kvm_sev_snp_launch_update_v12, 24, {"uaddr": 8, "len": 16, "type": 20}),
        (
            sev.kvm_sev_snp_launch_finish_v12,
            64,
            {"id_block_en": 16, "auth_key_en": 17, "vlek_required": 18, "host_data": 19},
        ),
        (sev.sev_user_data_snp_pause_attestation, 8, {"id": 0}),
        (kvm.kvm_user_vmgexit_psc_msr, 16, {"gpa": 0, "op": 8, "ret": 12}),
        (kvm.kvm_user_vmgexit_psc, 16, {"shared_gpa": 0, "ret": 8}),
        (
            kvm.kvm_user_vmgexit_ext_guest_req,
            24,
            {"data_gpa": 0, "data_npages": 8, "ret": 16},
        ),
        (kvm.kvm_user_vmgexit, 32, {"type": 0, "psc": 8, "psc_msr": 8, "ext_guest_req": 8}),
        # SNP firmware ABI 56860 rev 1.55.
        (
            ghcb.snp_attestation_report,
            0x4A0,
            {
                "guest_svn": 0x4,
                "policy": 0x8,
                "family_id": 0x10,
                "image_id": 0x20,
                "vmpl": 0x30,
                "signature_algo": 0x34,
                "current_tcb": 0x38,
                "platform_info": 0x40,
                "author_key_en": 0x48,
                "report_data": 0x50,
                "measurement": 0x90,
                "host_data": 0xC0,
                "id_key_digest": 0xE0,
                "author_key_digest": 0x110,
                "report_id": 0x140,
                "report_id_ma": 0x160,
                "reported_tcb": 0x180,
                "chip_id": 0x1A0,
                "committed_tcb": 0x1E0,
                "current_build": 0x1E8,
                "committed_build": 0x1EC,
                "launch_tcb": 0x1F0,
                "signature": 0x2A0,
            },
        ),
        (sev.sev_ecdsa_sig, 512, {"r": 0, "s": 72}),
        (sev.sev_ecdsa_pubkey, 1028, {"curve": 0, "qx": 4, "qy": 76}),
        (
            sev.sev_id_block,
            sev.KVM_SEV_SNP_ID_BLOCK_SIZE,
            {"family_id": 48, "image_id": 64, "version": 80, "guest_svn": 84, "policy": 88},
        ),
        (
            sev.sev_id_auth,
            sev.KVM_SEV_SNP_ID_AUTH_SIZE,
            {"id_block_sig": 0x40, "id_key": 0x240, "id_key_sig": 0x680, "author_key": 0x880},
        ),
        (ghcb.snp_cert_table_entry, 24, {"offset": 16, "length": 20}),
        (ghcb.snp_derived_key_rsp, 64, {"derived_key": 32}),
        (ghcb.snp_report_resp_hdr, 32, {"report_size": 4}),
        (ghcb.tcb_version, 8, {"boot_loader": 0, "tee": 1, "snp": 6, "microcode": 7}),
        (ghcb.psc_buffer, ghcb.GHCB_SHARED_BUF_SIZE, {"entries": 8}),
    ],
)
def test_layout_of_what_is_not_in_linux_6_12(
    cls: type[layout.Struct], size: int, offsets: dict[str, int]
) -> None:
    assert layout.size(cls) == size
    assert {name: layout.offset(cls, name) for name in offsets} == offsets


def test_vmsa_offsets_are_those_of_the_manual() -> None:
    """APM volume 2, table B-4."""
    wanted = {"vmpl": 0xCA, "efer": 0xD0, "rip": 0x178, "sev_features": 0x3B0, "xcr0": 0x3E8}
    assert {n: layout.offset(vmsa.sev_es_save_area, n) for n in wanted} == wanted
    assert len(vmsa.vmsa_page(vmsa.sev_es_save_area(rip=0xFFF0))) == 4096


def test_segment_attributes_are_packed_as_in_a_vmcb() -> None:
    code = vmsa.seg(8, type=0xB, s=1, present=1, l=1, g=1)
    assert (code.selector, code.attrib, code.limit) == (8, 0xA9B, 0xFFFFFFFF)
    with pytest.raises(TypeError, match="present_bit"):
        vmsa.seg(8, present_bit=1)


def test_a_misspelt_field_is_refused() -> None:
    regs = kvm.kvm_regs()
    with pytest.raises(AttributeError, match="rpi"):
        regs.rpi = 1
    with pytest.raises(AttributeError, match="rpi"):
        kvm.kvm_regs(rpi=1)
    with pytest.raises(AttributeError, match="exit_raeson"):
        kvm.kvm_run().exit_raeson = 1


def test_bytes_fill_an_array_field_of_their_length_only() -> None:
    start = sev.kvm_sev_snp_launch_start(gosvw=bytes(range(16)))
    assert bytes(start)[8:24] == bytes(range(16))
    with pytest.raises(ValueError, match="holds 16 bytes, not 4"):
        start.gosvw = b"1234"


def test_an_exit_structure_lies_in_kvm_run() -> None:
    run = kvm.kvm_run()
    run.hypercall.args[2] = 0x11
    run.hypercall.nr = kvm.KVM_HC_MAP_GPA_RANGE
    raw = bytes(run)
    assert (raw[32], raw[32 + 8 + 16]) == (12, 0x11)
    run = kvm.kvm_run.from_bytes(raw[:64])
    assert run.hypercall.args[2] == 0x11
    run.vmgexit.psc.ret = 7
    assert bytes(run)[32 + 16] == 7


def test_ioctl_numbers_carry_the_size() -> None:
    assert kvm.KVM_SET_USER_MEMORY_REGION2 == 0x40A0AE49
    assert ioctls.ioctl_size(kvm.KVM_SET_USER_MEMORY_REGION2) == 160
    assert sev.SEV_ISSUE_CMD == 0xC0105300


def test_valid_bitmap_has_a_bit_for_each_quadword() -> None:
    block = ghcb.ghcb()
    ghcb.ghcb_set_valid(block, "sw_exit_code", ghcb.SVM_VMGEXIT_PSC)
    raw = bytes(block)
    assert raw[0x390:0x398] == (0x80000010).to_bytes(8, "little")
    assert int.from_bytes(raw[0x3F0:0x400], "little") == 1 << (0x390 // 8)
    assert ghcb.ghcb_is_valid(block, "sw_exit_code")
    assert not ghcb.ghcb_is_valid(block, "sw_scratch")


def test_msr_protocol_values() -> None:
    assert ghcb.GHCB_MSR_SEV_INFO(2, 1, 51) == 0x0002_0001_33000001
    value = ghcb.GHCB_MSR_PSC_REQ_GFN(0x12345, ghcb.SNP_PAGE_STATE_SHARED)
    assert value == 0x0020_0000_12345014
    assert ghcb.GHCB_MSR_PSC_REQ_TO_GFN(value) == 0x12345
    assert ghcb.GHCB_MSR_PSC_REQ_TO_OP(value) == 2
    assert ghcb.GHCB_MSR_REG_GPA_REQ_VAL(0x300) == 0x300012
    assert ghcb.GHCB_CPUID_REQ(0x8000001F, ghcb.GHCB_CPUID_REQ_EBX) == 0x8000001F_40000004
    assert ghcb.GHCB_MSR_TERM(1, 2) == 0x21100


def test_names_for_messages() -> None:
    assert errors.fw_error_name(0x16) == "SEV_RET_INVALID_PARAM"
    assert errors.fw_error_name(0xFFFFFFFF) == "SEV_RET_NO_FW_CALL"
    assert errors.fw_error_name(-1) == "SEV_RET_NO_FW_CALL"
    assert errors.fw_error_name(0x999) == "firmware error 0x999"
    assert errors.errno_name(errno.EIO) == errors.errno_name(-errno.EIO) == "EIO"
    assert errors.errno_name(0) == "success"
    assert sev.command_name(sev.SEV_CMD_SNP_PAGE_RECLAIM) == "SNP_PAGE_RECLAIM"
    assert kvm.exit_name(kvm.KVM_EXIT_MEMORY_FAULT) == "KVM_EXIT_MEMORY_FAULT"
    assert kvm.exit_name(kvm.KVM_EXIT_HYPERCALL) == "KVM_EXIT_HYPERCALL"
    assert ghcb.svm_exit_name(0x80000013) == "SVM_VMGEXIT_AP_CREATION"
    assert ghcb.svm_exit_name(0x40) == "SVM_EXIT_EXCP_BASE"


def test_flexible_arrays_come_and_go() -> None:
    entries = [kvm.kvm_msr_entry(index=i, data=i * 2) for i in range(3)]
    raw = layout.with_entries(kvm.kvm_msrs(nmsrs=3), entries)
    assert len(raw) == 8 + 3 * 16
    assert [e.data for e in layout.entries(raw, kvm.kvm_msrs, kvm.kvm_msr_entry, 3)] == [0, 2, 4]


def test_interfaces_differ_where_the_series_changed() -> None:
    assert [r.launch_start.id for r in (V12, MERGED)] == [23, 100]
    assert [r.psc_exit for r in (V12, MERGED)] == [PscExit.VMGEXIT, PscExit.HYPERCALL]
    assert (V12.finish_has_vlek_required, MERGED.finish_has_vcek_disabled) == (True, True)
    for interface in INTERFACES.values():
        assert hasattr(interface.launch_finish.struct, interface.finish_key_field)
        assert hasattr(interface.launch_start.struct, "flags") == interface.launch_flags
        assert interface.policy_required & interface.policy_refused == 0


def test_every_difference_of_the_newest_has_its_release() -> None:
    names = [each.name for each in dataclasses.fields(MERGED)]
    differ = {name for name in names if getattr(MERGED, name) != getattr(LINUX_7_3, name)}
    dated = [name for names in SINCE.values() for name in names]
    assert sorted(dated) == sorted(differ - {"name", "title", "kernels", "release"})


@pytest.mark.parametrize(
    ("release", "certificates", "name"),
    [
        ("6.11.0", False, "merged"),
        ("6.12.117-snptest", False, "merged"),
        ("6.14.0-rc1", False, "merged"),
        ("7.3.4-snptest\n", True, "7.3"),
        ("7.10.0", True, "7.3"),
        ("6.17.3", False, "6.17"),
        ("7.1.0-rc1+", True, "7.1"),
        ("no release", False, "merged"),
    ],
)
def test_interface_of_a_release(release: str, certificates: bool, name: str) -> None:
    assert of_release(release, certificates).name == name


def test_a_release_has_what_came_up_to_it() -> None:
    found = of_release("6.17.0", certificates=False)
    assert found.ap_features_exact
    assert not found.policy_refused
    assert found.ghcb_version_1
    assert found.update_any_source


def test_certificates_are_asked_for_and_not_told_by_the_release() -> None:
    assert of_release("6.12.0", certificates=True).request_certificates
    assert not of_release("7.0.0", certificates=False).request_certificates


@pytest.mark.parametrize("name", INTERFACES)
def test_probing_the_emulator_tells_its_interface(name: str) -> None:
    with backends.open(Target(interface=name)) as kernel:
        assert probe(kernel) is INTERFACES[name]


def test_identify_tells_interfaces_apart() -> None:
    both = (errno.ENOTTY, errno.EINVAL)
    answers = {
        (a, b): identify(dict(zip(PROBE_COMMANDS, (a, b), strict=True))) for a in both for b in both
    }
    assert answers == {
        (errno.ENOTTY, errno.EINVAL): V12,
        (errno.EINVAL, errno.ENOTTY): MERGED,
        (errno.ENOTTY, errno.ENOTTY): None,
        (errno.EINVAL, errno.EINVAL): None,
    }
