# SPDX-License-Identifier: GPL-2.0-only
"""A logical processor: VMRUN of SNP guests from their VMSA, and of plain guests."""

from __future__ import annotations

from harness.emulator.cpu import exits
from harness.emulator.cpu.delivery import Event
from harness.emulator.cpu.emulation import Emulation
from harness.emulator.cpu.exits import Exit
from harness.emulator.cpu.faults import VC
from harness.emulator.cpu.intercepts import arm
from harness.emulator.cpu.mmu import NestedPageTable
from harness.emulator.cpu.runner import Vmcb
from harness.emulator.cpu.state import (
    PlainState,
    load_plain,
    load_vmsa,
    save_plain,
    save_vmsa,
    vmsa_defect,
)
from harness.uapi.vmsa import sev_es_save_area

__all__ = ["Cpu", "Event", "PlainState", "Vmcb"]


class Cpu(Emulation):
    """One processor.  Several may exist, all on one thread."""

    def vmrun(self, vmsa_pa: int, asid: int, npt: NestedPageTable, vmcb: Vmcb, budget: int) -> Exit:
        """Run an SNP guest for at most `budget` instructions."""
        defect = self._vmsa_page_defect(vmsa_pa, asid)
        if defect is not None:
            self.invalidate(vmsa_pa)
            return exits.Invalid(defect)
        if self.loaded_vmsa != vmsa_pa:
            self.save()
            vmsa = sev_es_save_area.from_buffer_copy(self._memory.read(vmsa_pa, 0x1000))
            defect = vmsa_defect(vmsa)
            if defect is not None:
                return exits.Invalid(defect)
            load_vmsa(self._engine, vmsa)
            self.loaded_vmsa = vmsa_pa
            self._plain_loaded = False
            self._pending = None
            self._features = vmsa.sev_features
            self._mmu.vmpl = vmsa.vmpl
            self._protected = True
            arm(self._engine, True)
            self._context = None
        self._enter_context(npt, asid, self._mmu.vmpl, True)
        page = vmsa_pa >> 12
        self._rmp.in_use.add(page)
        try:
            return self._run(vmcb, budget)
        finally:
            self._rmp.in_use.discard(page)

    def run_plain(self, npt: NestedPageTable, vmcb: Vmcb, budget: int) -> Exit:
        """Run a guest without encryption, whose registers came by `set_plain`."""
        if not self._plain_loaded:
            raise ValueError("set_plain() comes before run_plain()")
        self._enter_context(npt, 0, 0, False)
        return self._run(vmcb, budget)

    def set_plain(self, state: PlainState) -> None:
        """Load the registers of a plain guest."""
        self.save()
        load_plain(self._engine, state)
        self._plain_loaded, self._protected = True, False
        self._pending = None
        arm(self._engine, False)
        self._context = None

    def get_plain(self) -> PlainState:
        """The registers of the plain guest."""
        if not self._plain_loaded:
            raise ValueError("no plain guest is loaded")
        return save_plain(self._engine)

    def read_reg(self, number: int) -> int:
        """A general register of a plain guest, by encoding (0: RAX, 1: RCX ...)."""
        return int(self._env.regs[number])

    def write_reg(self, number: int, value: int) -> None:
        """Set a general register of a plain guest."""
        self._env.regs[number] = value

    def raise_vc(self, exit_code: int) -> None:
        """Have the guest take #VC before its next instruction."""
        self._pending = Event(VC, exit_code)

    def raise_exception(self, vector: int, error_code: int | None = None) -> None:
        """Have the guest take an exception before its next instruction."""
        self._pending = Event(vector, error_code)

    def save(self) -> None:
        """Write the loaded state back to its VMSA page, and let go of it."""
        if self.loaded_vmsa is None:
            return
        # As after a #VMEXIT the event is still to come, the save area has no place for it.
        vmsa = sev_es_save_area.from_buffer(self._memory.view(self.loaded_vmsa, 0x1000))
        save_vmsa(self._engine, vmsa)
        self.loaded_vmsa = None

    def invalidate(self, vmsa_pa: int) -> None:
        """Drop the loaded state of a VMSA page without writing it back."""
        if self.loaded_vmsa == vmsa_pa:
            self.loaded_vmsa = None

    def close(self) -> None:
        """Free the processor; its state is lost unless saved before."""
        self.loaded_vmsa = None
        self._mmu.close()
        self._engine.close()

    def _vmsa_page_defect(self, vmsa_pa: int, asid: int) -> str | None:
        """The RMP's conditions on a VMSA page (APM vol. 2, 15.36.12)."""
        if vmsa_pa & 0xFFF or not 0 < vmsa_pa < self._memory.size:
            return "the VMSA address is not a page of memory"
        entry = self._rmp.effective(vmsa_pa)
        if not entry.assigned or entry.asid != asid:
            return "the VMSA page is not assigned to this ASID"
        if not entry.vmsa:
            return "the page is not a VMSA page"
        if not entry.validated or entry.immutable:
            return "the VMSA page is not validated, or immutable"
        return None

    def _enter_context(self, npt: NestedPageTable, asid: int, vmpl: int, snp: bool) -> None:
        context = (npt, asid, vmpl)
        if self._context is None or self._context[0] is not npt or self._context[1:] != context[1:]:
            self._mmu.use(npt, asid, vmpl, snp)
            self.flush_tlb()
            self._context = context
            return
        self._check_code()
