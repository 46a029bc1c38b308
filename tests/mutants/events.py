# SPDX-License-Identifier: GPL-2.0-only
"""Breakages that the suite psc must catch: NAE events, their inputs, limits and answers."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_KVM: Final = "harness/emulator/kvm/"


def _mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    nodes = tuple(f"suites/psc/test_events.py::test_{test}" for test in tests)
    return Mutant(name=f"events: {name}", file=_KVM + file, old=old, new=new, tests=nodes)


MUTANTS: Final = (
    _mutant(
        "RDPMC without RCX",
        "vmgexit.py",
        "    abi.SVM_EXIT_RDPMC: (page.RCX,),\n",
        "",
        "input_missing",
    ),
    _mutant(
        "WRMSR without a value",
        "vmgexit.py",
        "needed = (*needed, page.RAX, page.RDX)",
        "pass",
        "input_missing",
    ),
    _mutant(
        "CPUID 0xD without XCR0",
        "vmgexit.py",
        "needed = (*needed, page.XCR0)",
        "pass",
        "input_missing",
    ),
    _mutant(
        "OUTS without a scratch area",
        "nae.py",
        "        return (page.SCRATCH,)\n",
        "        return ()\n",
        "input_missing",
    ),
    _mutant(
        "MMIO write without a scratch area",
        "vmgexit.py",
        "    abi.SVM_VMGEXIT_MMIO_WRITE: (page.SCRATCH,),\n",
        "",
        "input_missing",
    ),
    _mutant(
        "CPUID wants RBX, too",
        "vmgexit.py",
        "abi.SVM_EXIT_CPUID: (page.RAX, page.RCX)",
        "abi.SVM_EXIT_CPUID: (page.RAX, page.RCX, page.RBX)",
        "inputs_given",
    ),
    _mutant(
        "SW_EXITINFO2 need not be given",
        "vmgexit.py",
        " and valid(page.EXIT_INFO_2)",
        "",
        "exit_itself_not_given",
    ),
    _mutant(
        "hypercall without a privilege level",
        "vmgexit.py",
        "abi.SVM_EXIT_VMMCALL: (page.RAX, page.CPL)",
        "abi.SVM_EXIT_VMMCALL: (page.RAX,)",
        "hypercall_inputs",
    ),
    _mutant(
        "hypercalls of user code",
        "nae.py",
        "    if cpl:\n        return -uapi.KVM_EPERM\n",
        "",
        "hypercall_of_user_code",
    ),
    _mutant(
        "RBX is read whatever the marks say",
        "ghcb.py",
        "rbx if valid & _RBX_BIT else 0",
        "rbx",
        "registers_that_were_not_given",
    ),
    _mutant(
        "the request's marks stay",
        "ghcb.py",
        "self._answered = 0",
        "self._answered = valid",
        "only_the_answer_is_marked_valid",
    ),
    _mutant(
        "RDX comes back without its mark",
        "ghcb.py",
        "_RAX_BIT | _RCX_BIT | _RDX_BIT | _RBX_BIT",
        "_RAX_BIT | _RCX_BIT | _RBX_BIT",
        "only_the_answer_is_marked_valid",
    ),
    _mutant(
        "MMIO address of the page",
        "nae.py",
        "mmio.phys_addr, mmio.len, mmio.is_write = gpa, length",
        "mmio.phys_addr, mmio.len, mmio.is_write = gpa & ~0xFFF, length",
        "mmio_write",
    ),
    _mutant(
        "MMIO address of 32 bits",
        "nae.py",
        "mmio.phys_addr, mmio.len, mmio.is_write = gpa, length",
        "mmio.phys_addr, mmio.len, mmio.is_write = gpa & U32, length",
        "mmio_at_high_addresses",
    ),
    _mutant(
        "MMIO read leaves the scratch area",
        "nae.py",
        "left[:length] = bytes(vcpu.run.mmio.data[:length])",
        "pass",
        "mmio_read",
    ),
    _mutant(
        "MMIO read fills eight bytes",
        "nae.py",
        "return _mmio_part(vcpu, area[:length], gpa, write=write)",
        "return _mmio_part(vcpu, area[:8], gpa, write=write)",
        "mmio_read",
    ),
    _mutant(
        "MMIO of no bytes is an exit",
        "nae.py",
        "    if not length:\n        return RESUME\n",
        "    length = length or 1\n",
        "mmio_of_no_bytes",
    ),
    _mutant(
        "MMIO of nine bytes",
        "nae.py",
        "and length > MMIO_MAX:",
        "and length > MMIO_MAX + 1:",
        "mmio_too_long",
    ),
    _mutant(
        "scratch area ends behind its buffer",
        "nae.py",
        "<= page.SHARED_BUFFER_END - length",
        "<= page.SHARED_BUFFER_END",
        "mmio_scratch_area",
        "string_outside_the_buffer",
    ),
    _mutant(
        "scratch area anywhere in memory",
        "nae.py",
        "vcpu.vm.sev.ghcb_version < 2 and",
        "",
        "mmio_scratch_area",
        "string_outside_the_buffer",
    ),
    _mutant(
        "OUTS one element short",
        "nae.py",
        "return _string_part(vcpu, area[: count * size], port, size, is_in)",
        "return _string_part(vcpu, area[: (count - 1) * size], port, size, is_in)",
        "string_out",
        "string_in",
    ),
    _mutant(
        "INS leaves the scratch area",
        "nae.py",
        "left[:length] = io_data(vcpu, length)",
        "pass",
        "string_in",
    ),
    _mutant(
        "string of no elements is one",
        "nae.py",
        "    if not count:\n        return RESUME\n",
        "    count = count or 1\n",
        "string_of_nothing",
    ),
    _mutant(
        "string whose length overflows",
        "nae.py",
        "if count > 0x7FFFFFFF or count * size > 0x7FFFFFFF:",
        "if count > 0x7FFFFFFF:",
        "string_too_long",
    ),
    _mutant(
        "port access of no size",
        "nae.py",
        "    if not size:\n        return RESUME\n",
        "    size = size or 1\n",
        "port_access_of_no_size",
    ),
    _mutant(
        "jump table is forgotten",
        "ap.py",
        "vcpu.vm.sev.ap_jump_table = request.info_2",
        "pass",
        "jump_table",
    ),
    _mutant(
        "unsupported event goes on",
        "vmgexit.py",
        'exit_info_1={request.info_1:#x}")\n    raise KvmError(errno.EINVAL)',
        'exit_info_1={request.info_1:#x}")\n    return RESUME',
        "unsupported_event",
    ),
    _mutant(
        "WBINVD is no event",
        "vmgexit.py",
        "    abi.SVM_EXIT_WBINVD: nae.wbinvd,\n",
        "",
        "nothing_to_be_given",
    ),
    _mutant(
        "no GHCB ends KVM_RUN",
        "vmgexit.py",
        '_unimplemented(vcpu, "vmgexit: GHCB gpa is not set")\n        return RESUME',
        '_unimplemented(vcpu, "vmgexit: GHCB gpa is not set")\n        return LEAVE',
        "no_ghcb",
    ),
    _mutant(
        "version 1 has its scratch areas in the GHCB",
        "nae.py",
        "vcpu.vm.sev.ghcb_version < 2 and",
        "vcpu.vm.sev.ghcb_version < 1 and",
        "mmio_of_version_1",
        "string_out_of_version_1",
    ),
    _mutant(
        "strings of version 1 are cut",
        "nae.py",
        "area[: count * size], port, size, is_in)",
        "area[: min(count * size, PAGE_SIZE)], port, size, is_in)",
        "string_out_of_version_1",
    ),
    _mutant(
        "scratch areas of version 1 have no limit",
        "nae.py",
        "ghcb_version < 2 and length <= SCRATCH_LIMIT:",
        "ghcb_version < 2 and length <= 2 * SCRATCH_LIMIT:",
        "scratch_area_of_version_1",
    ),
    _mutant(
        "a scratch area without memory is malformed",
        "nae.py",
        "            raise KvmError(errno.EFAULT)\n        pa = vcpu",
        "            return None\n        pa = vcpu",
        "scratch_area_without_memory",
    ),
    _mutant(
        "version 2 is offered to all",
        "vmgexit.py",
        "version = vm.sev.ghcb_version",
        "version = 2",
        "version_1_is_offered",
    ),
    _mutant(
        "XCR0 is not taken over",
        "vmgexit.py",
        "        vcpu.state.xcr0 = request.xcr0\n",
        "        pass\n",
        "cpuid_by_xcr0",
    ),
)
