# SPDX-License-Identifier: GPL-2.0-only
"""Breakages of what KVM has since 6.12: a suite's branch for a later interface must see them."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_KVM: Final = "harness/emulator/kvm/"
_CERTIFICATES: Final = "guest_req/test_certificates.py::test_"


def _mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    nodes = tuple(f"suites/{test}" for test in tests)
    return Mutant(name=f"later: {name}", file=_KVM + file, old=old, new=new, tests=nodes)


_LAUNCH = (
    _mutant(
        "SNP guests of GHCB version 1",
        "sev.py",
        "and not vm.interface.ghcb_version_1:",
        "and False:",
        "launch/test_init2.py::test_known_ghcb_versions",
    ),
    _mutant(
        "no guest of GHCB version 1",
        "sev.py",
        "if is_old and vm_type == uapi.KVM_X86_SNP_VM and",
        "if is_old and",
        "launch/test_init2.py::test_known_ghcb_versions_of_sev_es",
    ),
    _mutant(
        "published policy bits are refused",
        "sev.py",
        "return kvm.interface.policy_valid or 0 if",
        "return (kvm.interface.policy_valid or 0) | 1 << 21 if",
        "launch/test_start.py::test_policy_bits_that_kvm_publishes",
        "launch/test_start.py::test_policy_bits_that_kvm_does_not_know",
    ),
    _mutant(
        "source anywhere",
        "launch.py",
        "misplaced = not params.uaddr or params.uaddr % PAGE_SIZE",
        "misplaced = not params.uaddr",
        "launch/test_update.py::test_source_need_not_be_aligned",
    ),
    _mutant(
        "source nowhere",
        "launch.py",
        "misplaced = not params.uaddr or params.uaddr % PAGE_SIZE",
        "misplaced = params.uaddr % PAGE_SIZE",
        "launch/test_update.py::test_no_source",
    ),
    _mutant(
        "empty range",
        "launch.py",
        "if not params.len or (has_source and misplaced):",
        "if has_source and misplaced:",
        "launch/test_update.py::test_zero_length",
    ),
    _mutant(
        "zero pages need a source",
        "launch.py",
        "has_source = params.type != abi.KVM_SEV_SNP_PAGE_TYPE_ZERO",
        "has_source = True",
        "launch/test_update.py::test_zero_pages_need_no_source",
    ),
    _mutant(
        "LAUNCH_FINISH locks no vCPU",
        "launch.py",
        "for vcpu in vm.vcpus if interface.finish_locks_vcpus else ():",
        "for vcpu in ():",
        "launch/test_races.py::test_accepted_registers_are_measured",
    ),
)

_TEARDOWN = (
    _mutant(
        "the end of a VM flushes all caches",
        "sev.py",
        "if vm.interface.end_flushes_caches:",
        "if True:",
        "launch/test_teardown.py::test_end_flushes_caches",
    ),
)

_EVENTS = (
    _mutant(
        "any answer to a page of the MSR protocol",
        "psc.py",
        "    if _asks_by_hypercall(vcpu):\n        _check_result(vcpu)\n",
        "",
        "psc/test_msr.py::test_userspace_refuses",
    ),
    _mutant(
        "any answer to a list",
        "psc.py",
        '        """snp_complete_one_psc: userspace answered for one range."""\n'
        "        _check_result(vcpu)\n",
        '        """snp_complete_one_psc: userspace answered for one range."""\n',
        "psc/test_list.py::test_answer_that_kvm_does_not_know",
    ),
    _mutant(
        "an unregistered page is missing input",
        "vmgexit.py",
        "request.malformed(unregistered)",
        "request.malformed(abi.GHCB_ERR_MISSING_INPUT)",
        "psc/test_ghcb.py::test_unregistered_page",
    ),
    _mutant(
        "an unregistered page will do",
        "vmgexit.py",
        "vcpu.state.registered_ghcb != gpa:",
        "False:",
        "psc/test_ghcb.py::test_unregistered_page",
    ),
    _mutant(
        "AP features need not be the VM's",
        "ap.py",
        "fixed = ALL_FEATURES if vm.interface.ap_features_exact else",
        "fixed =",
        "ap_creation/test_refusals.py::test_features_other_than_the_vms",
    ),
    _mutant(
        "addresses of messages are missing input",
        "vmgexit.py",
        "return vcpu.vm.interface.guest_request_bad_address or 0",
        "return int(abi.GHCB_ERR_MISSING_INPUT)",
        "guest_req/test_addresses.py::test_unaligned_or_equal",
    ),
    _mutant(
        "a file may be bound twice by its old error",
        "gmem.py",
        "raise KvmError(self.vm.interface.gmem_bound_errnos[0])",
        "raise KvmError(errno.EINVAL)",
        "gmem/test_creation.py::test_overlapping_binding",
    ),
)

_CERTS = (
    _mutant(
        "certificates are not told",
        "sev.py",
        "uapi.KVM_X86_SEV_SNP_REQ_CERTS,\n",
        "uapi.KVM_X86_SEV_SNP_REQ_CERTS + 1,\n",
        _CERTIFICATES + "is_told",
    ),
    _mutant(
        "certificates once there are vCPUs",
        "sev.py",
        "if vm.vcpus or not vm.sev.snp_active:",
        "if not vm.sev.snp_active:",
        _CERTIFICATES + "not_once_there_are_vcpus",
    ),
    _mutant(
        "certificates for every VM",
        "sev.py",
        "if vm.vcpus or not vm.sev.snp_active:",
        "if vm.vcpus:",
        _CERTIFICATES + "snp_guests_only",
    ),
    _mutant(
        "userspace is asked unless it wants to",
        "guest_req.py",
        "if vcpu.vm.sev.certificates:",
        "if vcpu.vm.interface.request_certificates:",
        _CERTIFICATES + "nobody_is_asked_unless_enabled",
    ),
    _mutant(
        "userspace is never asked",
        "guest_req.py",
        "if vcpu.vm.sev.certificates:",
        "if False:",
        _CERTIFICATES + "certificates",
    ),
    _mutant(
        "pages needed are not told",
        "guest_req.py",
        "            request.rbx = run.snp_req_certs.npages\n",
        "            pass\n",
        _CERTIFICATES + "short_buffer",
    ),
    _mutant(
        "busy is generic",
        "guest_req.py",
        "errno.EAGAIN: VMM_ERR_BUSY",
        "errno.EAGAIN: VMM_ERR_GENERIC",
        _CERTIFICATES + "error_from_userspace",
    ),
    _mutant(
        "any answer for certificates",
        "guest_req.py",
        "        if result and result not in CERTIFICATE_ERRORS:\n"
        "            raise KvmError(errno.EINVAL)\n",
        "        result = result if result in CERTIFICATE_ERRORS else 0\n",
        _CERTIFICATES + "answer_that_kvm_does_not_know",
    ),
    _mutant(
        "firmware error lost with certificates",
        "guest_req.py",
        "        if result:\n"
        "            request.set_info_2(CERTIFICATE_ERRORS[result] << 32)\n"
        "            return RESUME\n"
        "        vmm_error, fw_error = _carry(vcpu, request.info_1, request.info_2)\n",
        "        if result:\n"
        "            request.set_info_2(CERTIFICATE_ERRORS[result] << 32)\n"
        "            return RESUME\n"
        "        vmm_error, fw_error = _carry(vcpu, request.info_1, request.info_2)[0], 0\n",
        _CERTIFICATES + "firmware_refusal",
    ),
)

MUTANTS: Final = (*_LAUNCH, *_TEARDOWN, *_EVENTS, *_CERTS)
