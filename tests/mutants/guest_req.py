# SPDX-License-Identifier: GPL-2.0-only
"""Breakages that the suite guest_req must catch: messages, reports, keys, certificates."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_KVM: Final = "harness/emulator/kvm/"
_PSP: Final = "harness/emulator/psp/"
_GUEST_REQ: Final = _KVM + "guest_req.py"
_ATTESTATION: Final = _KVM + "attestation.py"
_DEVSEV: Final = _KVM + "devsev.py"
_MESSAGE: Final = _PSP + "guest_message.py"
_REQUESTS: Final = _PSP + "guest_request.py"
_REPORT: Final = _PSP + "report.py"
_PLATFORM: Final = _PSP + "platform.py"
_ENDORSEMENT: Final = _PSP + "endorsement.py"


def _mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    nodes = tuple(f"suites/guest_req/test_{test}" for test in tests)
    return Mutant(name=f"guest_req: {name}", file=file, old=old, new=new, tests=nodes)


_CARRIED = (
    _mutant(
        "unaligned request",
        _GUEST_REQ,
        "aligned = request.info_1 % PAGE_SIZE == 0 and",
        "aligned =",
        "addresses.py::test_unaligned_or_equal",
    ),
    _mutant(
        "unaligned response",
        _GUEST_REQ,
        "request_gpa % PAGE_SIZE or response_gpa % PAGE_SIZE or request_gpa",
        "request_gpa % PAGE_SIZE or request_gpa",
        "addresses.py::test_unaligned_or_equal",
    ),
    _mutant(
        "one page for both",
        _GUEST_REQ,
        "return aligned and request.info_1 != request.info_2",
        "return aligned",
        "addresses.py::test_unaligned_or_equal",
    ),
    _mutant(
        "firmware error not told in v12's way",
        _GUEST_REQ,
        "if fw_error and to_guest:",
        "if fw_error and not to_guest:",
        "messages.py::test_wrong_number",
    ),
    _mutant(
        "firmware error lost",
        _GUEST_REQ,
        "return 0, fw_error",
        "return 0, 0",
        "messages.py::test_tampered",
    ),
    _mutant(
        "failure is not userspace's",
        _GUEST_REQ,
        "            raise KvmError(errno.EIO)\n        return interface",
        "            return 0, 0\n        return interface",
        "addresses.py::test_request_without_memory",
    ),
    _mutant(
        "response not copied",
        _GUEST_REQ,
        "nae.write_guest(vcpu, response_gpa, answer)",
        "nae.write_guest(vcpu, response_gpa, answer[:1])",
        "report.py::test_report_data",
    ),
    _mutant(
        "response that has no place is no failure",
        _GUEST_REQ,
        "    if not nae.write_guest(vcpu, response_gpa, answer):\n        return None\n",
        "    nae.write_guest(vcpu, response_gpa, answer)\n",
        "addresses.py::test_response_without_memory",
    ),
    _mutant(
        "response into the request's page",
        _GUEST_REQ,
        "if not nae.write_guest(vcpu, response_gpa, answer)",
        "if not nae.write_guest(vcpu, response_gpa - PAGE_SIZE, answer)",
        "addresses.py::test_rest_of_memory_untouched",
    ),
)

_EXTENDED = (
    _mutant(
        "table longer than its end",
        _GUEST_REQ,
        "EMPTY_TABLE = bytes(24)",
        "EMPTY_TABLE = bytes(4096)",
        "extended.py::test_empty_table",
    ),
    _mutant(
        "table without a buffer",
        _GUEST_REQ,
        "if request.rbx and not",
        "if not",
        "extended.py::test_no_buffer",
    ),
    _mutant(
        "table for every message",
        _GUEST_REQ,
        "if kind[0] == abi.SNP_MSG_REPORT_REQ:",
        "if kind[0]:",
        "extended.py::test_table_is_for_reports_only",
    ),
    _mutant(
        "RBX need not be given",
        _GUEST_REQ,
        "known = request.valid(page.RAX) and request.valid(page.RBX)",
        "known = request.valid(page.RAX)",
        "extended.py::test_registers_not_given",
    ),
    _mutant(
        "table at an unaligned address",
        _GUEST_REQ,
        "if not known or request.rax % PAGE_SIZE:",
        "if not known:",
        "extended.py::test_unaligned_data",
    ),
    _mutant(
        "userspace asked for an unaligned address",
        _GUEST_REQ,
        "    if request.rax % PAGE_SIZE:",
        "    if request.rax % 8:",
        "extended.py::test_unaligned_data_is_not_asked_for",
    ),
    _mutant(
        "pages needed are not told",
        _GUEST_REQ,
        "if vmm_error == VMM_ERR_INVALID_LEN:",
        "if vmm_error == VMM_ERR_BUSY:",
        "extended.py::test_short_buffer",
    ),
    _mutant(
        "pages needed told with any error",
        _GUEST_REQ,
        "request.rbx = run.vmgexit.ext_guest_req.data_npages",
        "request.rbx = 0",
        "extended.py::test_short_buffer",
    ),
    _mutant(
        "userspace's error is ignored",
        _GUEST_REQ,
        "        if not vmm_error:\n",
        "        if True:\n",
        "extended.py::test_error_from_userspace",
    ),
    _mutant(
        "userspace is told no pages",
        _GUEST_REQ,
        "run.vmgexit.ext_guest_req.data_npages = request.rbx",
        "run.vmgexit.ext_guest_req.data_npages = 0",
        "extended.py::test_certificates",
    ),
    _mutant(
        "userspace is told another address",
        _GUEST_REQ,
        "run.vmgexit.ext_guest_req.data_gpa = request.rax",
        "run.vmgexit.ext_guest_req.data_gpa = request.info_2",
        "extended.py::test_certificates",
    ),
    _mutant(
        "stale request is not busy",
        _GUEST_REQ,
        "                vmm_error = VMM_ERR_BUSY\n",
        "                vmm_error = 0\n",
        "attestation.py::test_change_under_way",
    ),
    _mutant(
        "pause does not hold requests up",
        _GUEST_REQ,
        "    if attestation.is_stale(transaction):\n        request",
        "    if False:\n        request",
        "attestation.py::test_paused",
    ),
    _mutant(
        "a change that has ended is not noticed",
        _ATTESTATION,
        "return self.paused or transaction_id != self.transaction_id",
        "return self.paused",
        "attestation.py::test_change_under_way",
    ),
    _mutant(
        "second pause",
        _ATTESTATION,
        "if self.paused:",
        "if False:",
        "attestation.py::test_pause_twice",
    ),
    _mutant(
        "resume does not resume",
        _ATTESTATION,
        "    def resume(self) -> int:",
        "    def resume(self) -> int:\n        return 1\n\n    def _resume(self) -> int:",
        "attestation.py::test_paused",
    ),
    _mutant(
        "pause returns the last change's id",
        _ATTESTATION,
        "return self.transaction_id + 1",
        "return self.transaction_id",
        "attestation.py::test_transaction_id",
    ),
)

_MESSAGES = (
    _mutant(
        "numbers may be skipped",
        _MESSAGE,
        "require(seqno == count + 1,",
        "require(seqno > count,",
        "messages.py::test_wrong_number",
    ),
    _mutant(
        "numbers may come again",
        _MESSAGE,
        "require(seqno == count + 1,",
        "require(seqno <= count + 1,",
        "messages.py::test_number_reused",
    ),
    _mutant(
        "all keys share one count",
        _MESSAGE,
        "count = guest.message_counts[vmpck]",
        "count = guest.message_counts[0]",
        "messages.py::test_keys_count_apart",
    ),
    _mutant(
        "refused requests count",
        _MESSAGE,
        "    body = page[HEADER_SIZE : HEADER_SIZE + length]",
        "    guest.message_counts[vmpck] += 2\n    body = page[HEADER_SIZE : HEADER_SIZE + length]",
        "messages.py::test_tampered",
    ),
    _mutant(
        "header is not authenticated",
        _MESSAGE,
        "body, page[_AUTHENTICATED])",
        "body, None)",
        "messages.py::test_tampered",
    ),
    _mutant(
        "VMPCK0 opens every message",
        _MESSAGE,
        "AESGCM(guest.vmpcks[vmpck]).decrypt",
        "AESGCM(guest.vmpcks[0]).decrypt",
        "messages.py::test_wrong_vmpck",
    ),
    _mutant(
        "any algorithm",
        _MESSAGE,
        "algo == SNP_AEAD_AES_256_GCM\n",
        "algo\n",
        "messages.py::test_wrong_header",
    ),
    _mutant(
        "any header version",
        _MESSAGE,
        "and header_version == HEADER_VERSION\n",
        "and header_version < 3\n",
        "messages.py::test_wrong_header",
    ),
    _mutant(
        "response keeps the request's number",
        _MESSAGE,
        "seqno = request.seqno + 1",
        "seqno = request.seqno",
        "messages.py::test_response_header",
    ),
    _mutant(
        "any message version",
        _REQUESTS,
        "if known is None or message.version != 1:",
        "if known is None:",
        "messages.py::test_wrong_header",
    ),
    _mutant(
        "payload of any size",
        _REQUESTS,
        "good = length is None or length == len(message.payload)",
        "good = length is None or length <= len(message.payload)",
        "report.py::test_payload_size",
        "keys.py::test_payload_size",
    ),
    _mutant(
        "response in clear",
        _MESSAGE,
        "return (bytes(header) + sealed[:-_TAG])",
        "return (bytes(header) + payload)",
        "messages.py::test_answers_are_encrypted",
    ),
)

_REPORTS = (
    _mutant(
        "a VMPCK speaks for every VMPL",
        _REQUESTS,
        "good = message.vmpck <= vmpl < _VMPLS",
        "good = vmpl < _VMPLS",
        "report.py::test_vmpl",
    ),
    _mutant(
        "VMPL 4",
        _REQUESTS,
        "_VMPLS = 4",
        "_VMPLS = 5",
        "report.py::test_vmpl",
    ),
    _mutant(
        "reserved bytes of a report request",
        _REQUESTS,
        "require(not reserved, SevFwError.INVALID_PARAM",
        "require(True, SevFwError.INVALID_PARAM",
        "report.py::test_reserved_bytes",
    ),
    _mutant(
        "report without the host's data",
        _REPORT,
        "host_data=guest.host_data",
        "host_data=bytes(32)",
        "report.py::test_host_data",
    ),
    _mutant(
        "measurement of zeros",
        _REPORT,
        "measurement=guest.digest.value",
        "measurement=bytes(48)",
        "report.py::test_measurement",
    ),
    _mutant(
        "keys' digests exchanged",
        _REPORT,
        "id_key_digest=guest.id_key_digest",
        "id_key_digest=guest.author_key_digest",
        "report.py::test_id_key_digest",
    ),
    _mutant(
        "signature leaves the end out",
        _REPORT,
        "bytes(report)[:SNP_REPORT_SIGNED_SIZE]",
        "bytes(report)[: SNP_REPORT_SIGNED_SIZE - 16]",
        "report.py::test_signed_up_to_the_root",
    ),
    _mutant(
        "chip ID is never masked",
        _REPORT,
        "chip_id=bytes(64) if platform.mask_chip_id else platform.chip_id",
        "chip_id=platform.chip_id",
        "config.py::test_mask_chip_id",
    ),
    _mutant(
        "masked key still signs",
        _REPORT,
        "    if platform.mask_chip_key:\n",
        "    if False:\n",
        "config.py::test_mask_chip_key",
    ),
    _mutant(
        "signed by the current TCB's key",
        _REPORT,
        "(platform, tcb)\n",
        "(platform, platform.tcb)\n",
        "config.py::test_reported_tcb_chooses_the_key",
    ),
    _mutant(
        "committed version is the current one",
        _REPORT,
        '("committed", platform.committed_version)',
        '("committed", platform.version)',
        "config.py::test_commit_of_newer_firmware",
    ),
    _mutant(
        "VCEK for guests that forbid it",
        _ENDORSEMENT,
        'require(not vcek_disabled, SevFwError.INVALID_KEY, "the guest forbids the VCEK")',
        "pass",
        "report.py::test_vcek_disabled",
    ),
    _mutant(
        "VLEK is not preferred",
        _ENDORSEMENT,
        "select == KEY_SELECT_ANY and platform.vlek is not None",
        "select == KEY_SELECT_ANY and platform.vlek is None",
        "vlek.py::test_loaded",
    ),
    _mutant(
        "hashstick's reserved bytes",
        _ENDORSEMENT,
        "require(not any(wrapped[12:16]),",
        "require(True,",
        "vlek.py::test_reserved_bytes",
    ),
    _mutant(
        "VLEK regardless of the TCB",
        _ENDORSEMENT,
        'material = hmac.digest(platform.vlek, tcb.value.to_bytes(8, "little"), "sha512")',
        'material = hmac.digest(platform.vlek, bytes(8), "sha512")',
        "vlek.py::test_key_of_another_tcb",
    ),
)

_KEYS = (
    _mutant(
        "fields are mixed in unasked",
        _REQUESTS,
        "content if select >> index & 1 else bytes(len(content))",
        "content",
        "keys.py::test_key_outlives_the_guest",
        "keys.py::test_measurement",
    ),
    _mutant(
        "fields are never mixed in",
        _REQUESTS,
        "content if select >> index & 1 else bytes(len(content))",
        "bytes(len(content))",
        "keys.py::test_measurement",
    ),
    _mutant(
        "VMPL is not mixed in",
        _REQUESTS,
        'mixed = struct.pack("<QI", select, request.vmpl)',
        'mixed = struct.pack("<QI", select, 0)',
        "keys.py::test_selection_is_mixed_in",
    ),
    _mutant(
        "keys of newer SVNs",
        _REQUESTS,
        "good = request.guest_svn <= guest.guest_svn and",
        "good =",
        "keys.py::test_guest_svn",
    ),
    _mutant(
        "keys of newer TCBs",
        _REQUESTS,
        " and tcb.within(platform.committed_tcb)",
        "",
        "keys.py::test_tcb_version",
    ),
    _mutant(
        "VMRK is the chip's root",
        _REQUESTS,
        "root = guest.vmrk",
        "root = self._root_key(guest, 0)",
        "keys.py::test_vmrk",
    ),
    _mutant(
        "reserved field selections",
        _REQUESTS,
        "select & ~_FIELDS or root_select >> 3",
        "root_select >> 3",
        "keys.py::test_reserved",
    ),
    _mutant(
        "word behind the root's selection",
        _REQUESTS,
        " or request.rsvd or",
        " or",
        "keys.py::test_reserved_word",
    ),
)

_HOST = (
    _mutant(
        "newer TCB configured",
        _PLATFORM,
        "good = wanted.within(platform.committed_tcb)",
        "good = True",
        "config.py::test_newer_tcb",
    ),
    _mutant(
        "refused configuration masks the chip",
        _PLATFORM,
        "        platform = self._platform\n        if wanted is not None:",
        "        platform = self._platform\n"
        "        platform.mask_chip_id = bool(data.mask_chip_id)\n        if wanted is not None:",
        "config.py::test_newer_tcb",
    ),
    _mutant(
        "configuration's reserved bytes",
        _PLATFORM,
        "data.rsvd or any(bytes(data.rsvd1)) or",
        "data.rsvd or",
        "config.py::test_reserved_bytes",
    ),
    _mutant(
        "configured TCB is not reported",
        _PLATFORM,
        "return self.configured_tcb or self.tcb",
        "return self.tcb",
        "config.py::test_reported_tcb",
    ),
    _mutant(
        "commit keeps the old TCB",
        _PLATFORM,
        "self._platform.committed_tcb = self._platform.tcb",
        "pass",
        "config.py::test_commit_of_newer_firmware",
    ),
    _mutant(
        "VLEK of any version",
        _DEVSEV,
        "if load.len != ctypes.sizeof(load) or load.vlek_wrapped_version:",
        "if load.len != ctypes.sizeof(load):",
        "vlek.py::test_unknown_version",
    ),
    _mutant(
        "VLEK structure of any length",
        _DEVSEV,
        "if load.len != ctypes.sizeof(load) or load",
        "if load.len < ctypes.sizeof(load) or load",
        "vlek.py::test_wrong_length",
    ),
    _mutant(
        "VLEK at address 0",
        _DEVSEV,
        "if not load.vlek_wrapped_address:",
        "if False:",
        "vlek.py::test_bad_address",
    ),
    _mutant(
        "VLEK is not loaded",
        _DEVSEV,
        "self._do(issue, abi.SEV_CMD_SNP_VLEK_LOAD, load)",
        "pass",
        "vlek.py::test_loaded",
    ),
    _mutant(
        "configuration is not sent",
        _DEVSEV,
        "self._do(issue, abi.SEV_CMD_SNP_CONFIG, config)",
        "pass",
        "config.py::test_reported_tcb",
    ),
    _mutant(
        "pause without a structure",
        _DEVSEV,
        "if not self.ccp.snp_initialized or not issue.data:",
        "if not self.ccp.snp_initialized:",
        "attestation.py::test_no_structure",
    ),
    _mutant(
        "readers may configure",
        _DEVSEV,
        "if writable and not self._writable:",
        "if False:",
        "device.py::test_reader",
    ),
    _mutant(
        "configuration without SNP",
        _DEVSEV,
        "if snp and not self.ccp.snp_initialized:",
        "if False:",
        "device.py::test_without_snp",
    ),
)

MUTANTS: Final = _CARRIED + _EXTENDED + _MESSAGES + _REPORTS + _KEYS + _HOST
