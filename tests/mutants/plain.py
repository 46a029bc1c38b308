# SPDX-License-Identifier: GPL-2.0-only
"""Breakages that the tests without SNP must catch; these tests also run on real kernels."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_KVM: Final = "harness/emulator/kvm/"
_GMEM: Final = _KVM + "gmem.py"
_NAE: Final = _KVM + "nae.py"


def _mutant(suite: str, name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    nodes = tuple(f"suites/{suite}/test_{test}" for test in tests)
    return Mutant(name=f"{suite}: {name}", file=file, old=old, new=new, tests=nodes)


_LAUNCH = (
    _mutant(
        "launch",
        "types are counted modulo 32",
        _KVM + "device.py",
        "if arg >= 64 or not kvm.vm_types >> arg & 1:",
        "if not kvm.vm_types >> (arg & 31) & 1:",
        "types.py::test_types_beyond_those_that_can_be_reported",
    ),
    _mutant(
        "launch",
        "SEV commands without SEV",
        _KVM + "sev.py",
        "    if not vm.kvm.ccp.present:\n",
        "    if False:\n",
        "without_sev.py::test_commands",
    ),
    _mutant(
        "launch",
        "SEV is asked for without SEV",
        _KVM + "sev.py",
        "    if not vm.kvm.ccp.present:\n",
        "    if arg and not vm.kvm.ccp.present:\n",
        "without_sev.py::test_no_argument",
    ),
    _mutant(
        "launch",
        "CPUID offers SEV where it is off",
        _KVM + "cpuid.py",
        "asids, min_sev_asid) if sev else ()",
        "asids, min_sev_asid)",
        "without_sev.py::test_no_encryption_in_cpuid",
    ),
    _mutant(
        "launch",
        "CPUID without SNP",
        _KVM + "cpuid.py",
        "    off = 0 if sev_snp else 1 << 4\n",
        "    off = 1 << 4\n",
        "types.py::test_cpuid_and_vm_types_agree",
    ),
    _mutant(
        "launch",
        "vCPUs end under KVM_RUN",
        _KVM + "files.py",
        " and file not in self._held:",
        ":",
        "types.py::test_vm_ends_while_its_vcpu_runs",
    ),
    _mutant(
        "launch",
        "vCPU ids are given twice",
        _KVM + "vm.py",
        "        if vm.vcpu_by_id(arg) is not None:\n            raise KvmError(errno.EEXIST)\n",
        "",
        "types.py::test_vcpu_ids",
    ),
)

_PSC = (
    _mutant(
        "psc",
        "hypercall answers have 32 bits",
        _KVM + "plain.py",
        "cpu.write_reg(RAX, vcpu.run.hypercall.ret)",
        "cpu.write_reg(RAX, vcpu.run.hypercall.ret & 0xFFFFFFFF)",
        "hypercall.py::test_answer_reaches_the_guest",
    ),
    _mutant(
        "psc",
        "hypercall of no pages",
        _NAE,
        "if gpa % PAGE_SIZE or not npages or (gpa",
        "if gpa % PAGE_SIZE or (gpa",
        "hypercall.py::test_bad_ranges",
    ),
    _mutant(
        "psc",
        "hypercall for part of a page",
        _NAE,
        "if gpa % PAGE_SIZE or not npages or (gpa",
        "if not npages or (gpa",
        "hypercall.py::test_bad_ranges",
    ),
    _mutant(
        "psc",
        "hypercall whose range wraps",
        _NAE,
        " or (gpa >> 12) + npages > U64:",
        ":",
        "hypercall.py::test_bad_ranges",
    ),
    _mutant(
        "psc",
        "hypercall exits are always on",
        _NAE,
        "if nr != uapi.KVM_HC_MAP_GPA_RANGE or not enabled:",
        "if nr != uapi.KVM_HC_MAP_GPA_RANGE:",
        "hypercall.py::test_not_enabled",
    ),
    _mutant(
        "psc",
        "any hypercall asks userspace",
        _NAE,
        "if nr != uapi.KVM_HC_MAP_GPA_RANGE or not enabled:",
        "if not enabled:",
        "hypercall.py::test_unknown_hypercalls",
    ),
    _mutant(
        "psc",
        "any hypercall can be enabled",
        _KVM + "vm.py",
        "        if cap.args[0] & ~HYPERCALL_EXITS:\n            raise KvmError(errno.EINVAL)\n",
        "",
        "hypercall.py::test_unknown_hypercalls_cannot_be_enabled",
    ),
    _mutant(
        "psc",
        "the page size is kept from userspace",
        _NAE,
        "= gpa, npages, attributes\n",
        "= gpa, npages, attributes & 16\n",
        "hypercall.py::test_page_size_is_passed_on",
    ),
)

_GUEST_MEMFD = (
    _mutant(
        "gmem",
        "offsets of slots are or-ed",
        _KVM + "slots.py",
        "return gfn - self.base_gfn + self.gmem_index",
        "return gfn - self.base_gfn | self.gmem_index",
        "binding.py::test_pages_are_different",
        "binding.py::test_hole_at_the_file_s_offset",
    ),
    _mutant(
        "gmem",
        "the last page of a hole stays mapped",
        _GMEM,
        "            high = min(end, slot.gmem_index + slot.npages)\n",
        "            high = min(end - 1, slot.gmem_index + slot.npages)\n",
        "binding.py::test_every_page_of_a_hole",
    ),
    _mutant(
        "gmem",
        "holes are unmapped at the file's offset",
        _GMEM,
        "shift = slot.base_gfn - slot.gmem_index",
        "shift = slot.base_gfn",
        "binding.py::test_hole_at_the_file_s_offset",
        "binding.py::test_two_slots_of_one_file",
    ),
    _mutant(
        "gmem",
        "holes are unmapped in the first slot only",
        _GMEM,
        "                self.vm.mmu.zap(low + shift, high + shift)\n",
        "                self.vm.mmu.zap(low + shift, high + shift)\n                return\n",
        "binding.py::test_two_slots_of_one_file",
    ),
    _mutant(
        "gmem",
        "content goes with the slot",
        _GMEM,
        "        self._bindings.remove(slot)\n",
        "        self._bindings.remove(slot)\n"
        "        self.punch(slot.gmem_index, slot.gmem_index + slot.npages)\n",
        "binding.py::test_content_follows_the_file",
    ),
    _mutant(
        "gmem",
        "a closed file stays mapped",
        _GMEM,
        "        self.punch(0, -(-self.size // PAGE_SIZE))\n        for slot in self._bindings:\n"
        "            slot.gmem = None\n        self._bindings.clear()\n",
        "        for slot in self._bindings:\n            slot.gmem = None\n"
        "        self._bindings.clear()\n        self.punch(0, -(-self.size // PAGE_SIZE))\n",
        "lifetime.py::test_closed_file_is_unmapped",
        "running.py::test_file_closed_under_a_counter",
    ),
    _mutant(
        "gmem",
        "private pages stay mapped when shared",
        _KVM + "vm.py",
        "            vm.mmu.zap(start, end)\n",
        "            if private:\n                vm.mmu.zap(start, end)\n",
        "running.py::test_conversion_under_a_counter",
    ),
    _mutant(
        "gmem",
        "shared pages stay mapped when private",
        _KVM + "vm.py",
        "            vm.mmu.zap(start, end)\n",
        "            if not private:\n                vm.mmu.zap(start, end)\n",
        "running.py::test_conversion_under_a_counter",
    ),
    _mutant(
        "gmem",
        "memory fault of no kind",
        _KVM + "mmu.py",
        "        if not slot.can_be_private:\n"
        "            raise MemoryFault(gfn * PAGE_SIZE, PAGE_SIZE, True, errno.EFAULT)",
        "        if not slot.can_be_private:\n"
        "            raise MemoryFault(gfn * PAGE_SIZE, PAGE_SIZE, False, errno.EFAULT)",
        "exits.py::test_page_of_the_access",
    ),
    _mutant(
        "gmem",
        "memory fault of 2 MiB",
        _KVM + "mmu.py",
        "        if not slot.can_be_private:\n"
        "            raise MemoryFault(gfn * PAGE_SIZE, PAGE_SIZE, True, errno.EFAULT)",
        "        if not slot.can_be_private:\n"
        "            raise MemoryFault(gfn * PAGE_SIZE, 512 * PAGE_SIZE, True, errno.EFAULT)",
        "exits.py::test_page_of_the_access",
    ),
    _mutant(
        "gmem",
        "vCPUs keep what was unmapped",
        _KVM + "plain.py",
        "    if state.tlb_generation != vm.mmu.generation:\n",
        "    if False:\n",
        "running.py::test_hole_seen_by_the_other",
    ),
)

MUTANTS: Final = (*_LAUNCH, *_PSC, *_GUEST_MEMFD)
