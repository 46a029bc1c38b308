# SPDX-License-Identifier: GPL-2.0-only
"""Breakages of plain SEV and SEV-ES guests, which the emulator's own tests must catch.

No suite launches such guests; Linux' own selftests do, on the SNP machine.
"""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_PSP: Final = "harness/emulator/psp/"
_KVM: Final = "harness/emulator/kvm/"


def _mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    nodes = tuple(f"tests/test_{test}" for test in tests)
    return Mutant(name=f"sev guests: {name}", file=file, old=old, new=new, tests=nodes)


_FIRMWARE = (
    _mutant(
        "handles begin at zero",
        _PSP + "sev_guest.py",
        "for number in range(1, limit + 1)",
        "for number in range(limit)",
        "psp_sev_guests.py::test_handles_are_not_zero_and_used_again",
    ),
    _mutant(
        "the platform never works",
        _PSP + "sev_guest.py",
        "self._platform.sev_state = sev.SEV_STATE_WORKING",
        "self._platform.sev_state = sev.SEV_STATE_INIT",
        "psp_sev_guests.py::test_platform_works_while_there_are_guests",
    ),
    _mutant(
        "the platform works on without guests",
        _PSP + "sev_guest.py",
        "        if not self._guests:\n",
        "        if self._guests:\n",
        "psp_sev_guests.py::test_platform_works_while_there_are_guests",
    ),
    _mutant(
        "active guests are forgotten",
        _PSP + "sev_guest.py",
        'require(guest.asid == 0, SevFwError.ACTIVE, f"has ASID {guest.asid}")\n        del',
        "del",
        "psp_sev_guests.py::test_active_guests_stay",
    ),
    _mutant(
        "keys of NOKS guests are shared",
        _PSP + "sev_guest.py",
        "same = other.policy == policy and not policy & SevPolicy.NOKS",
        "same = other.policy == policy",
        "psp_sev_guests.py::test_sharing_a_key",
    ),
    _mutant(
        "SEV-ES guests on any ASID",
        _PSP + "asids.py",
        "good = (kind is Kind.SEV) == (asid > self._es_limit)",
        "good = kind is not Kind.SEV or asid > self._es_limit",
        "psp_sev_guests.py::test_asids_of_es_guests",
    ),
    _mutant(
        "an ASID is used again unflushed",
        _PSP + "asids.py",
        "        self.unflushed.add(asid)\n",
        "",
        "psp_sev_guests.py::test_asid_is_flushed_before_it_is_used_again",
    ),
    _mutant(
        "no flush after INIT",
        _PSP + "legacy.py",
        "        self._asids.distrust()\n",
        "",
        "psp_sev_guests.py::test_flush_after_init_is_required",
    ),
    _mutant(
        "DF_FLUSH without WBINVD",
        _PSP + "asids.py",
        "        self.unflushed.add(asid)\n        self._dirty = self._caches\n",
        "        self.unflushed.add(asid)\n",
        "psp_sev_guests.py::test_wbinvd_comes_before_the_flush_where_caches_are_tracked",
    ),
    _mutant(
        "nothing is measured",
        _PSP + "sev_launch.py",
        "guest.digest.update(self._pages.memory.read(pa + at, part))",
        "guest.digest.update(bytes(part))",
        "psp_sev_guests.py::test_whole_launch_is_measured",
    ),
    _mutant(
        "the policy is not measured",
        _PSP + "sev_launch.py",
        'head + guest.policy.to_bytes(4, "little")',
        "head + bytes(4)",
        "psp_sev_guests.py::test_whole_launch_is_measured",
    ),
    _mutant(
        "one nonce for all",
        _PSP + "sev_launch.py",
        'nonce = self._platform.secrets.draw("MNONCE", 16)',
        'nonce = self._platform.secrets.derive("MNONCE", 16)',
        "psp_sev_guests.py::test_each_measurement_has_its_own_nonce",
    ),
    _mutant(
        "the measurement's length is not told",
        _PSP + "sev_launch.py",
        "length, data.len = data.len, MEASUREMENT_SIZE",
        "length = data.len",
        "psp_sev_guests.py::test_short_measurement_buffer_is_told_the_length",
    ),
    _mutant(
        "LAUNCH_FINISH without a measurement",
        _PSP + "sev_launch.py",
        "        guest.require_state(SevGuestState.LSECRET)\n        guest.channel = Channel()",
        "        guest.channel = Channel()",
        "psp_sev_guests.py::test_states",
    ),
    _mutant(
        "a VMSA of a plain guest",
        _PSP + "sev_launch.py",
        '        require(guest.es or not vmsa, SevFwError.UNSUPPORTED, "no SEV-ES guest")\n',
        "",
        "psp_sev_guests.py::test_vmsa_is_one_page_of_an_es_guest",
    ),
    _mutant(
        "NODBG is debugged",
        _PSP + "sev_launch.py",
        "allowed = not guest.policy & SevPolicy.NODBG",
        "allowed = not guest.policy & SevPolicy.ES",
        "psp_sev_guests.py::test_debugging_is_refused",
    ),
    _mutant(
        "guest memory of the hypervisor's under SNP",
        _PSP + "sev_launch.py",
        "        pa = self._pages.output(address, length, align=BLOCK)\n",
        "        pa = self._pages.address(address, length, BLOCK)\n",
        "psp_sev_guests.py::test_guest_memory_is_the_firmwares_during_updates_under_snp",
    ),
    _mutant(
        "any secret is taken",
        _PSP + "sev_channel.py",
        "good = hmac.compare_digest(mac, bytes(header.mac))",
        "good = len(mac) == len(bytes(header.mac))",
        "psp_sev_channel.py::test_secrets_are_refused",
    ),
    _mutant(
        "any policy is the owner's",
        _PSP + "sev_channel.py",
        "good = hmac.compare_digest(channel.policy_mac(policy), bytes(data.policy_mac))",
        "good = bool(channel.tik)",
        "psp_sev_channel.py::test_sessions_are_refused",
    ),
    _mutant(
        "any OCA owns the platform",
        _PSP + "sev_identity.py",
        "        check(pek, oca, CertUsage.PEK)\n",
        "",
        "psp_sev_channel.py::test_import_is_refused",
    ),
    _mutant(
        "NOSEND is sent",
        _PSP + "sev_migration.py",
        "may = not guest.policy & SevPolicy.NOSEND",
        "may = not guest.policy & SevPolicy.NODBG",
        "psp_sev_channel.py::test_policies_that_forbid_sending",
    ),
    _mutant(
        "guests survive SHUTDOWN",
        _PSP + "legacy.py",
        "        self._guests.clear()\n        self._platform.sev_state",
        "        self._platform.sev_state",
        "psp_sev_guests.py::test_shutdown_with_guests",
    ),
)

_KERNEL = (
    _mutant(
        "KVM leaves guests with the firmware",
        _KVM + "sev.py",
        "        legacy.unbind(vm)\n",
        "        pass\n",
        "kvm_sev_guests.py::test_launch_is_measured",
    ),
    _mutant(
        "KVM forgets a refused handle",
        _KVM + "legacy.py",
        "        ccp.do_cmd(abi.SEV_CMD_DECOMMISSION, abi.sev_data_decommission(handle=handle))\n"
        "        raise",
        "        raise",
        "kvm_sev_guests.py::test_errors_of_the_firmware_reach_userspace",
    ),
    _mutant(
        "unaligned debugging overwrites its neighbours",
        _KVM + "legacy.py",
        "        _crypt(vm, call, cmd, abi.SEV_CMD_DBG_DECRYPT, start, bounce, blocks)\n",
        "",
        "kvm_sev_guests.py::test_debugging_at_any_offset",
    ),
    _mutant(
        "guest memory stays the firmware's",
        _KVM + "ccp.py",
        "not self._unbounce(data, bounced) or not self.reclaim_pages(*lent)",
        "not self._unbounce(data, bounced)",
        "kvm_sev_guests.py::test_nothing_stays_with_the_firmware",
    ),
)

MUTANTS: Final = (*_FIRMWARE, *_KERNEL)
