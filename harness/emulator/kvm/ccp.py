# SPDX-License-Identifier: GPL-2.0-only
"""The ccp driver: the kernel's only way to the PSP (drivers/crypto/ccp/sev-dev.c, Linux 6.12)."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from harness.emulator.kvm import cmdbuf
from harness.emulator.kvm.attestation import Attestation
from harness.emulator.kvm.errors import KvmError
from harness.emulator.machine import MAX_SEV_ASID
from harness.emulator.memory import PAGE_SIZE, PAGE_SIZE_2M
from harness.uapi import sev as abi

if TYPE_CHECKING:
    from harness.emulator.kvm.device import Kvm
    from harness.emulator.machine import MachineConfig

DEVICE = "ccp 0000:22:00.1"
SNP_MIN_API = (1, 51)
SNP_TMR_SIZE = PAGE_SIZE_2M
SEV_TMR_SIZE = 1 << 20
RESERVED = (0xA0000, 0x60)
"""(base, pages) of the memory map's reserved range, HV-fixed for the firmware."""


class Ccp:
    """The PSP device: command buffers, firmware pages, platform state."""

    def __init__(self, kvm: Kvm) -> None:
        self.machine = kvm.machine
        self.host_rmp = kvm.host_rmp
        self.attestation = Attestation()
        self.snp_initialized = False
        self.state = abi.SEV_STATE_UNINIT
        self.api = (0, 0)
        self.build = 0
        # The second one serves the page reclaims that another command's preparation needs.
        buffers = self.machine.frames.alloc(2 * PAGE_SIZE, PAGE_SIZE)
        self._buffers = (buffers, buffers + PAGE_SIZE)
        self._active = 0
        self._tmr: tuple[int, int] | None = None
        config = kvm.machine.config
        self.present = config.sev
        self._want_snp = config.sev and config.sev_es and config.sev_snp
        if self.present:
            self._probe()
        self._announce(config)

    def _announce(self, config: MachineConfig) -> None:
        """What sev_hardware_setup of kvm_amd says of the outcome."""
        es = self.present and config.sev_es
        snp = es and self.snp_initialized
        both = f"ASIDs 1 - {config.asids}"
        plain = f"ASIDs {config.asids + 1} - {MAX_SEV_ASID}"
        for name, enabled, asids in (
            ("SEV", self.present, plain),
            ("SEV-ES", es, both),
            ("SEV-SNP", snp, both),
        ):
            self.printk(f"kvm_amd: {name} {'enabled' if enabled else 'disabled'} ({asids})")

    def printk(self, line: str) -> None:
        """Write a line to the kernel log."""
        self.machine.printk(line)

    def _say(self, line: str) -> None:
        self.machine.printk(f"{DEVICE}: {line}")

    def wbinvd(self) -> None:
        """wbinvd_on_all_cpus."""
        self.machine.count("wbinvd")
        self.machine.psp.wbinvd()

    # -- commands --------------------------------------------------------------------------

    def do_cmd(self, cmd: int, data: ctypes.Structure | None = None) -> int:
        """sev_do_cmd: run a command; what the firmware wrote to its buffer comes back in `data`.

        Returns the firmware's status, 0 for success (any other is -EIO to the kernel's callers).
        """
        if not self.present:
            raise KvmError(errno.ENODEV)
        if data is None:
            return self._run(cmd, 0)
        if self._active == len(self._buffers):
            self._say("SEV: too many firmware commands in progress, no command buffers available.")
            raise KvmError(errno.EBUSY)
        buffer = self._buffers[self._active]
        self._active += 1
        try:
            if cmd < abi.SEV_CMD_SNP_INIT and self.snp_initialized:
                return self._run_legacy(cmd, buffer, data)
            return self._run_with(cmd, buffer, data)
        finally:
            self._active -= 1

    def _run(self, cmd: int, pa: int) -> int:
        self.machine.count("psp")
        return int(self.machine.psp.command(cmd, pa))

    def _run_with(self, cmd: int, buffer: int, data: ctypes.Structure) -> int:
        memory = self.machine.memory
        memory.write(buffer, bytes(data))
        status = self._run(cmd, buffer)
        size = ctypes.sizeof(data)
        ctypes.memmove(ctypes.addressof(data), memory.read(buffer, size), size)
        return status

    def _run_legacy(self, cmd: int, buffer: int, data: ctypes.Structure) -> int:
        """A legacy command after SNP_INIT: what the firmware writes to must be its own."""
        bounced: list[tuple[str, int, int, int]] = []
        for address, length in cmdbuf.BOUNCED.get(cmd, ()):
            size = getattr(data, length)
            if size:
                npages = -(-size // PAGE_SIZE)
                bounce = self._alloc_firmware(npages)
                if bounce is None:
                    self._unbounce(data, bounced)
                    self._say(
                        f"SEV: failed to prepare buffer for legacy command {cmd:#x}. Error: -14"
                    )
                    raise KvmError(errno.EFAULT)
                bounced.append((address, getattr(data, address), bounce, size))
                setattr(data, address, bounce)
        lent = self._lend(cmd, data)
        if cmd not in cmdbuf.WRITABLE:
            status = self._run_with(cmd, buffer, data)
        else:
            self.machine.memory.write(buffer, bytes(data))
            self._mark_firmware(buffer, 1)
            status = self._run(cmd, buffer)
            if not self.reclaim_pages(buffer, 1):
                raise KvmError(errno.EFAULT)
            size = ctypes.sizeof(data)
            output = self.machine.memory.read(buffer, size)
            ctypes.memmove(ctypes.addressof(data), output, size)
        if not self._unbounce(data, bounced) or not self.reclaim_pages(*lent):
            raise KvmError(errno.EFAULT)
        return status

    def _lend(self, cmd: int, data: ctypes.Structure) -> tuple[int, int]:
        """Guest memory that the firmware writes to becomes its own for the while; how much.

        As in Linux, the offset in the first page does not count.
        """
        if cmd not in cmdbuf.GUEST_OWNED:
            return 0, 0
        address, length = (getattr(data, name) for name in cmdbuf.GUEST_OWNED[cmd])
        pa, npages = address & -PAGE_SIZE, -(-length // PAGE_SIZE)
        self._mark_firmware(pa, npages)
        return pa, npages

    def _unbounce(self, data: ctypes.Structure, bounced: list[tuple[str, int, int, int]]) -> bool:
        """snp_unmap_cmd_buf_desc_list: copy the output to where the caller wanted it."""
        good = True
        memory = self.machine.memory
        for address, original, bounce, size in bounced:
            setattr(data, address, original)
            npages = -(-size // PAGE_SIZE)
            if self.reclaim_pages(bounce, npages):
                memory.write(original, memory.read(bounce, size))
                self.machine.frames.free(bounce, npages * PAGE_SIZE)
            else:
                self.printk(
                    "Failed to reclaim firmware-owned pages while issuing SEV legacy command."
                )
                good = False
        return good

    # -- pages that belong to the firmware -------------------------------------------------

    def _mark_firmware(self, pa: int, npages: int) -> None:
        """rmp_mark_pages_firmware: all of them, or none and EFAULT."""
        done = self.host_rmp.make_firmware_range(pa, npages)
        if done < npages:
            self.reclaim_pages(pa, done)
            raise KvmError(errno.EFAULT)

    def reclaim_pages(self, pa: int, npages: int) -> bool:
        """snp_reclaim_pages: back to the hypervisor; from the first failure on, leaked."""
        for number in range(npages):
            page = pa + number * PAGE_SIZE
            if self.do_cmd(abi.SEV_CMD_SNP_PAGE_RECLAIM, abi.sev_data_snp_page_reclaim(paddr=page)):
                self.host_rmp.leak(page, npages - number)
                return False
            try:
                self.host_rmp.make_shared_range(page, 1)
            except KvmError:
                self.host_rmp.leak(page, npages - number)
                return False
        return True

    def _alloc_firmware(self, npages: int, align: int = PAGE_SIZE) -> int | None:
        """__snp_alloc_firmware_pages: zeroed pages, in the firmware state once SNP is on."""
        try:
            pa = self.machine.frames.alloc(npages * PAGE_SIZE, align)
        except MemoryError:
            return None
        if self.snp_initialized:
            try:
                self._mark_firmware(pa, npages)
            except KvmError:
                return None
        return pa

    def _free_firmware(self, pa: int, npages: int) -> None:
        """__snp_free_firmware_pages: what cannot be reclaimed is never used again."""
        if not self.snp_initialized or self.reclaim_pages(pa, npages):
            self.machine.frames.free(pa, npages * PAGE_SIZE)

    def alloc_firmware_page(self) -> int | None:
        """snp_alloc_firmware_page: None when there is no memory or the RMP refuses."""
        return self._alloc_firmware(1)

    def free_firmware_page(self, pa: int) -> None:
        """snp_free_firmware_page."""
        self._free_firmware(pa, 1)

    # -- platform --------------------------------------------------------------------------

    def _probe(self) -> None:
        """sev_dev_init and sev_pci_init, then what kvm_amd does to the device when it is loaded."""
        self._say("sev enabled")
        status = abi.sev_user_data_status()
        error = self.do_cmd(abi.SEV_CMD_PLATFORM_STATUS, status)
        if error:
            self._say(f"SEV: failed to get status. Error: {error:#x}")
            self.present = False
            return
        self.api = (status.api_major, status.api_minor)
        self.build, self.state = status.build, status.state
        self.platform_init()

    def platform_init(self) -> int:
        """sev_platform_init: SNP first, then SEV; returns the firmware's status of what failed."""
        if self.state == abi.SEV_STATE_INIT:
            return 0
        if self._want_snp:
            error = self._snp_init()
            if error:
                self._say(f"SEV-SNP: failed to INIT rc -5, error {error:#x}")
                return error
        return self._sev_init()

    def _snp_init(self) -> int:
        """__sev_snp_init_locked: WBINVD, SNP_INIT_EX, WBINVD, DF_FLUSH."""
        if self.snp_initialized:
            return 0
        if self.api < SNP_MIN_API:
            raise KvmError(errno.EOPNOTSUPP)
        machine = self.machine
        ranges = machine.frames.alloc(PAGE_SIZE, PAGE_SIZE)
        base, pages = RESERVED
        listing = abi.sev_data_range_list(num_elements=1)
        first = abi.sev_data_range(base=base, page_count=pages)
        machine.memory.write(ranges, bytes(listing) + bytes(first))
        self.wbinvd()
        init = abi.sev_data_snp_init_ex(init_rmp=1, list_paddr_en=1, list_paddr=ranges)
        error = self.do_cmd(abi.SEV_CMD_SNP_INIT_EX, init)
        machine.frames.free(ranges, PAGE_SIZE)
        if error:
            self._say(f"SEV-SNP: SNP_INIT_EX failed rc -5, error {error:#x}")
            return error
        self.wbinvd()
        error = self.do_cmd(abi.SEV_CMD_SNP_DF_FLUSH)
        if error:
            self._say(f"SEV-SNP: SNP_DF_FLUSH failed rc -5, error {error:#x}")
            return error
        self.snp_initialized = True
        self._say(f"SEV-SNP API:{self.api[0]}.{self.api[1]} build:{self.build}")
        return 0

    def _sev_init(self) -> int:
        """__sev_platform_init_locked: INIT with the TMR that SEV-ES needs, then DF_FLUSH."""
        if self._tmr is None:
            size = SNP_TMR_SIZE if self.snp_initialized else SEV_TMR_SIZE
            pa = self._alloc_firmware(size // PAGE_SIZE, size)
            if pa is None:
                self._say("SEV: TMR allocation failed, SEV-ES support unavailable")
            else:
                self._tmr = pa, size
        init = abi.sev_data_init()
        if self._tmr is not None:
            init.tmr_address, init.tmr_len = self._tmr
            init.flags = abi.SEV_INIT_FLAGS_SEV_ES
        error = self.do_cmd(abi.SEV_CMD_INIT, init)
        if error:
            self._say(f"SEV: INIT failed {error:#x}, rc -5")
            return error
        self.state = abi.SEV_STATE_INIT
        self.wbinvd()
        error = self.do_cmd(abi.SEV_CMD_DF_FLUSH)
        if error:
            self._say(f"SEV: DF_FLUSH failed {error:#x}, rc -5")
            return error
        self._say(f"SEV API:{self.api[0]}.{self.api[1]} build:{self.build}")
        return 0
