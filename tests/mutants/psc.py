# SPDX-License-Identifier: GPL-2.0-only
"""Breakages that the suite psc must catch: both protocols, PVALIDATE, conversions, 2 MiB pages."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_KVM: Final = "harness/emulator/kvm/"
_PSC: Final = _KVM + "psc.py"
_RMP: Final = "harness/emulator/rmp.py"


def _mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    nodes = tuple(f"suites/psc/test_{test}" for test in tests)
    return Mutant(name=f"psc: {name}", file=file, old=old, new=new, tests=nodes)


_MSR = (
    _mutant(
        "MSR takes any operation",
        _PSC,
        "if not known or (hypercall",
        "if (hypercall",
        "msr.py::test_bad_operation",
    ),
    _mutant(
        "MSR asks with exits off",
        _PSC,
        "(hypercall and not _hypercalls_enabled(vcpu))",
        "False",
        "msr.py::test_hypercall_exits_off",
    ),
    _mutant(
        "MSR keeps the reserved bits",
        _PSC,
        "operation = value >> 52 & 0xF",
        "operation = value >> 52",
        "msr.py::test_reserved_bits",
    ),
    _mutant(
        "MSR loses high bits of the address",
        _PSC,
        "value & ((1 << 52) - 1) & ~",
        "value & ((1 << 28) - 1) & ~",
        "msr.py::test_userspace_is_asked",
    ),
    _mutant(
        "MSR ignores userspace's refusal",
        _PSC,
        "abi.GHCB_MSR_PSC_RESP_ERROR if failed else abi.GHCB_MSR_PSC_RESP",
        "abi.GHCB_MSR_PSC_RESP",
        "msr.py::test_userspace_refuses",
    ),
    _mutant(
        "MSR both directions alike",
        _PSC,
        "private = operation == abi.SNP_PAGE_STATE_PRIVATE",
        "private = True",
        "msr.py::test_both_ways",
    ),
)

_LIST = (
    _mutant(
        "header not checked",
        _PSC,
        "if last >= limit:",
        "if last > limit:",
        "bad_list.py::test_end_entry_too_large",
    ),
    _mutant(
        "misaligned 2M accepted",
        _PSC,
        "if done > npages or gfn % npages:",
        "if done > npages:",
        "bad_list.py::test_misaligned_2m",
    ),
    _mutant(
        "cur_page not checked",
        _PSC,
        "if done > npages or gfn % npages:",
        "if gfn % npages:",
        "bad_list.py::test_cur_page_too_large",
    ),
    _mutant(
        "resume starts the entry anew",
        _PSC,
        "            gfn += done\n",
        "            gfn += 0\n",
        "list.py::test_resumes_within_an_entry",
    ),
    _mutant(
        "resume asks for too much",
        _PSC,
        "npages = (HUGE if huge else 1) - done",
        "npages = HUGE if huge else 1",
        "list.py::test_resumes_within_an_entry",
    ),
    _mutant(
        "ranges ignore the direction",
        _PSC,
        "more_operation != operation\n                or ",
        "",
        "list.py::test_ranges_end_where_entries_differ",
        "list.py::test_mixed_sizes_and_directions",
    ),
    _mutant(
        "ranges ignore gaps",
        _PSC,
        "or more_gfn != first_gfn + npages",
        "or more_gfn < first_gfn",
        "list.py::test_ranges_end_where_entries_differ",
    ),
    _mutant(
        "ranges ignore progress",
        _PSC,
        "                or more_done\n",
        "",
        "list.py::test_ranges_end_where_entries_differ",
    ),
    _mutant(
        "ranges ignore the size",
        _PSC,
        "                or more_huge != huge\n",
        "",
        "list.py::test_sizes_side_by_side",
    ),
    _mutant(
        "cur_page not written",
        _PSC,
        "raw = raw & ~0xFFF | (HUGE if huge else 1)",
        "raw = raw & ~0xFFF",
        "list.py::test_one_entry",
    ),
    _mutant(
        "an entry skipped after each range",
        _PSC,
        "self._set_current(self._first + self._batch)",
        "self._set_current(self._first + self._batch + 1)",
        "list.py::test_userspace_fails_in_the_middle",
        "list.py::test_beyond_the_slot",
    ),
    _mutant(
        "refusal of a list ignored",
        _PSC,
        "if vcpu.run.hypercall.ret:",
        "if vcpu.run.hypercall.ret == 1:",
        "list.py::test_beyond_the_slot",
    ),
    _mutant(
        "unknown operations are asked for",
        _PSC,
        "if operation not in (abi.VMGEXIT_PSC_OP_PRIVATE, abi.VMGEXIT_PSC_OP_SHARED):",
        "if operation > abi.VMGEXIT_PSC_OP_UNSMASH:",
        "list.py::test_smash_and_unsmash",
    ),
    _mutant(
        "list with exits off",
        _PSC,
        "if not _hypercalls_enabled(self._vcpu):",
        "if False:",
        "list.py::test_hypercall_exits_off",
    ),
    _mutant(
        "v12's answer lost",
        _PSC,
        "vcpu.state.ghcb.set_info_2(vcpu.run.vmgexit.psc.ret)",
        "vcpu.state.ghcb.set_info_2(0)",
        "list.py::test_list_goes_to_userspace",
    ),
    _mutant(
        "scratch area before the buffer",
        _KVM + "nae.py",
        "inside and page.SHARED_BUFFER <= offset <=",
        "inside and offset <=",
        "bad_list.py::test_bad_scratch_area",
    ),
    _mutant(
        "scratch area behind the buffer",
        _KVM + "nae.py",
        "<= page.SHARED_BUFFER_END - length:",
        "<= page.SHARED_BUFFER_END:",
        "bad_list.py::test_bad_scratch_area",
    ),
)

_PAGES = (
    _mutant(
        "PVALIDATE without CF",
        _RMP,
        "            return SUCCESS, True\n",
        "            return SUCCESS, False\n",
        "pvalidate.py::test_carry_flag_2m",
        "attacks.py::test_double_validation",
    ),
    _mutant(
        "eight bits of PVALIDATE's operands count",
        "harness/emulator/cpu/snp.py",
        "return int(register) & 1",
        "return int(register) & 0xFF",
        "pvalidate.py::test_only_bit_0_of_its_operands_counts",
    ),
    _mutant(
        "PVALIDATE of 2M takes 4K pages",
        _RMP,
        "return not huge or npt_size == PG_4K",
        "return False",
        "pvalidate.py::test_size_mismatch",
    ),
    _mutant(
        "PVALIDATE of 4K takes 2M pages",
        _RMP,
        "if huge or npt_size == PG_2M:",
        "if False:",
        "pvalidate.py::test_4k_in_2m",
        "smash.py::test_rescinding_4k_splits",
    ),
    _mutant(
        "PSMASH forgets Validated",
        _RMP,
        "self._smash(pfn, lo & ~SIZE_2M, hi)",
        "self._smash(pfn, lo & ~SIZE_2M & ~VALIDATED, hi)",
        "smash.py::test_rescinding_4k_splits",
        "content.py::test_4k_out_of_2m",
    ),
    _mutant(
        "a range converted by its start alone",
        _KVM + "attributes.py",
        "right = bisect.bisect_right(self._edges, end)",
        "right = bisect.bisect_right(self._edges, start)",
        "list.py::test_range_in_fragments",
    ),
    _mutant(
        "private access to shared memory",
        _KVM + "mmu.py",
        "if private != (gfn in vm.private):",
        "if private < (gfn in vm.private):",
        "attacks.py::test_answer_without_a_change",
        "pvalidate.py::test_shared_page",
    ),
    _mutant(
        "memory given to guests uncleared",
        _KVM + "gmem.py",
        "self._machine.clear(pa, count * PAGE_SIZE)",
        "self._machine.clear(pa, 0)",
        "content.py::test_discarded",
        "attacks.py::test_taken_away_and_given_back",
    ),
    _mutant(
        "2M folio over shared pages",
        _KVM + "gmem.py",
        "            and self.vm.private.covers(base, base + CHUNK_PAGES)\n",
        "",
        "smash.py::test_every_page_of_2m",
    ),
    _mutant(
        "plain guest's hypercall result lost",
        _KVM + "plain.py",
        "cpu.write_reg(RAX, vcpu.run.hypercall.ret)",
        "cpu.write_reg(RAX, 1)",
        "content.py::test_shared_is_common",
    ),
)

_EXIT: Final = _KVM + "vmgexit.py"
_GHCB = (
    _mutant(
        "any GHCB will do",
        _EXIT,
        "if vcpu.vm.sev_snp and vcpu.state.registered_ghcb != gpa:",
        "if False:",
        "ghcb.py::test_unregistered_page",
    ),
    _mutant(
        "registration answers with zero",
        _EXIT,
        "vmcb.ghcb_gpa = gpa | abi.GHCB_MSR_REG_GPA_RESP",
        "vmcb.ghcb_gpa = abi.GHCB_MSR_REG_GPA_RESP",
        "ghcb.py::test_any_page_can_be_registered",
    ),
    _mutant(
        "no highest version",
        _EXIT,
        "                version << 48\n",
        "                1 << 48\n",
        "ghcb.py::test_protocol_versions",
    ),
    _mutant(
        "terminations do not say why",
        _EXIT,
        "    vcpu.run.system_event.data[0] = vcpu.state.vmcb.ghcb_gpa\n    return LEAVE",
        "    vcpu.run.system_event.data[0] = 0\n    return LEAVE",
        "ghcb.py::test_termination",
    ),
    _mutant(
        "any usage",
        _EXIT,
        "    if request.usage:",
        "    if request.usage > 1:",
        "ghcb.py::test_usage_other_than_zero",
    ),
    _mutant(
        "RMP fault of a 4 KiB page splits",
        "harness/emulator/kvm/mmu.py",
        """            self._count("rmp_spurious")
            return
""",
        """            self._count("rmp_spurious")
""",
        "attacks.py::test_remapped",
    ),
    _mutant(
        "addresses of the MSR protocol are short",
        "harness/emulator/kvm/psc.py",
        "gpa = value & ((1 << 52) - 1)",
        "gpa = value & ((1 << 44) - 1)",
        "msr.py::test_high_addresses",
    ),
    _mutant(
        "addresses of a list are short",
        "harness/emulator/kvm/psc.py",
        "_ask(self._vcpu, gfn << 12, npages, attributes)",
        "_ask(self._vcpu, gfn << 12 & 0xFFFFFFFFFFF, npages, attributes)",
        "list.py::test_high_addresses",
    ),
    _mutant(
        "CPUID by MSR gives EAX",
        _EXIT,
        "register = registers[value >> abi.GHCB_MSR_CPUID_REG_POS & 3]",
        "register = registers[0]",
        "ghcb.py::test_cpuid_by_msr",
    ),
)

MUTANTS: Final = (*_MSR, *_LIST, *_PAGES, *_GHCB)
