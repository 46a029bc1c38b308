# SPDX-License-Identifier: GPL-2.0-only
"""Unicorn behind a typed wrapper: the only module that knows the binding and its memory layout.

Hooks get registers through `env`, QEMU's own register file (see env.py), in place: a register
costs 0.1 us there, 0.4 us through the public calls.  Where Unicorn keeps that register file is
found at the first use by searching its heap for a pattern written through the public interface;
a build laid out otherwise is refused, never guessed.

SVM intercepts: with HF_GUEST set QEMU checks the intercept masks in `env` and, in Unicorn, ends
up in the interrupt hook with 0x100 + exit code, the state still that of the intercepted
instruction.  That is how CPUID, MSRs, I/O, HLT and exceptions reach us, at no cost elsewhere.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

from harness.emulator.cpu.env import CC_MASK, CC_OP_EFLAGS, HF2_GIF, RF_DF, EnvState

# Unicorn carries types only in part; here it is untyped as a whole.
unicorn: Any = importlib.import_module("unicorn")
const: Any = importlib.import_module("unicorn.unicorn_const")
x86: Any = importlib.import_module("unicorn.x86_const")
uclib: Any = importlib.import_module("unicorn.unicorn_py3.unicorn").uclib

EXCP_VMEXIT = 0x100
"""Interrupt number of an intercept: this plus the SVM exit code (target/i386/cpu.h)."""

READ: int = const.UC_MEM_READ
WRITE: int = const.UC_MEM_WRITE
FETCH: int = const.UC_MEM_FETCH

CONTROL_SIZE = 0x3000
"""Bytes of the private page run that holds the VMCB's control area and the MSR permission map."""
MSRPM_OFFSET = 0x1000

_UC_STRUCT_WORDS = 512
_HEAP_WINDOW = 128 << 10

FillHook = Callable[[int, int], "tuple[int, int] | None"]


class UnsupportedUnicornError(RuntimeError):
    """This build of Unicorn keeps its state elsewhere than the one we know."""


class _TlbEntry(ctypes.Structure):
    _fields_ = [("paddr", ctypes.c_uint64), ("perms", ctypes.c_uint32)]


_VOID_P = ctypes.c_void_p
_FILL = ctypes.CFUNCTYPE(
    ctypes.c_bool, _VOID_P, ctypes.c_uint64, ctypes.c_int, ctypes.POINTER(_TlbEntry), _VOID_P
)
_INTR = ctypes.CFUNCTYPE(None, _VOID_P, ctypes.c_uint32, _VOID_P)
_INVALID = ctypes.CFUNCTYPE(ctypes.c_bool, _VOID_P, _VOID_P)
_INSN = ctypes.CFUNCTYPE(ctypes.c_int, _VOID_P, _VOID_P)
_SYSCALL = ctypes.CFUNCTYPE(None, _VOID_P, _VOID_P)
_IN = ctypes.CFUNCTYPE(ctypes.c_uint32, _VOID_P, ctypes.c_uint32, ctypes.c_int, _VOID_P)
_OUT = ctypes.CFUNCTYPE(None, _VOID_P, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32, _VOID_P)


def _readable_ranges() -> list[tuple[int, int]]:
    """Address ranges of this process that may be read."""
    ranges = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, mode = line.split()[:2]
            if mode.startswith("rw"):
                low, high = (int(part, 16) for part in span.split("-"))
                ranges.append((low, high))
    return ranges


def _find_env(handle: int, prefix: bytes) -> tuple[int, int]:
    """Offsets of uc->cpu in the engine and of env in the CPU: env begins with `prefix`."""
    ranges = _readable_ranges()

    def span(address: int) -> int:
        return next((high - address for low, high in ranges if low <= address < high), 0)

    words = min(_UC_STRUCT_WORDS, span(handle) // 8)
    engine = (ctypes.c_uint64 * words).from_address(handle)
    places: list[tuple[int, int]] = []
    for index, pointer in enumerate(engine):
        size = min(span(pointer), _HEAP_WINDOW)
        if size > len(prefix):
            found = ctypes.string_at(pointer, size).find(prefix)
            if found >= 0:
                places.append((found, index * 8))
    if not places:
        raise UnsupportedUnicornError(f"no register file found in Unicorn {unicorn.__version__}")
    # Other pointers reach it across heap neighbours, which lie elsewhere in the next engine.
    at_env, at_cpu = min(places)
    return at_cpu, at_env


def _find_progress() -> tuple[int, int]:
    """Offsets of emu_counter and invalid_addr in the engine.

    emu_counter precedes emu_count, which holds the limit given to uc_emu_start; invalid_addr is
    where the access failed.  Found by running a probe into a page fault.
    """
    limit, start = 0x5AFE_C0DE_1234, 0x5AFE_0123_4567
    refuse = _FILL(lambda *_: False)
    number = ctypes.c_size_t()
    probe: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    probe.ctl_exits_enabled(True)
    probe.ctl_set_tlb_mode(const.UC_TLB_VIRTUAL)
    uclib.uc_hook_add(
        probe._uch,
        ctypes.byref(number),
        const.UC_HOOK_TLB_FILL,
        ctypes.cast(refuse, _VOID_P),
        None,
        ctypes.c_uint64(1),
        ctypes.c_uint64(0),
    )
    uclib.uc_emu_start(probe._uch, start, 0, 0, limit)
    engine = (ctypes.c_uint64 * _UC_STRUCT_WORDS).from_address(int(probe._uch.value))
    counts = [i for i in range(1, _UC_STRUCT_WORDS) if engine[i] == limit]
    if len(counts) == 1:
        addresses = [i for i in range(counts[0], counts[0] + 32) if engine[i] == start]
        if len(addresses) == 1:
            return (counts[0] - 1) * 8, addresses[0] * 8
    raise UnsupportedUnicornError(f"no instruction counter found in Unicorn {unicorn.__version__}")


class _Layout:
    """What the search found, once a process."""

    env: tuple[int, int] | None = None
    progress: tuple[int, int] | None = None


class Engine:
    """One Unicorn CPU over the whole of physical memory, all of its translation done by hooks."""

    def __init__(self, address: int, size: int) -> None:
        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._uc.ctl_set_cpu_model(x86.UC_CPU_X86_EPYC_ROME)
        self._uc.ctl_set_tcg_buffer_size(32 << 20)
        self._uc.ctl_exits_enabled(True)  # no `until` address
        self._uc.ctl_set_tlb_mode(const.UC_TLB_VIRTUAL)
        handle = self._uc._uch
        self._handle = handle
        self._uc.mem_map_ptr(0, size, const.UC_PROT_ALL, address)
        self.control_base = (size + 0xFFFFF) & ~0xFFFFF
        self._control_memory = ctypes.create_string_buffer(CONTROL_SIZE + 0x1000)
        host = (ctypes.addressof(self._control_memory) + 0xFFF) & ~0xFFF
        self._uc.mem_map_ptr(self.control_base, CONTROL_SIZE, const.UC_PROT_ALL, host)
        self.control = (ctypes.c_uint8 * CONTROL_SIZE).from_address(host)
        self.env = self._locate(int(handle.value))
        self.regs = self.env.regs  # ctypes makes a new array object at each env.regs
        if _Layout.progress is None:
            _Layout.progress = _find_progress()
        self._counter, self._failed = (
            ctypes.c_uint64.from_address(int(handle.value) + at) for at in _Layout.progress
        )
        self.inside = False
        self.failure: BaseException | None = None
        self._callbacks: list[Any] = []
        env = self.env
        env.hflags2 |= HF2_GIF
        env.vm_vmcb = self.control_base
        self._start, self._stop = uclib.uc_emu_start, uclib.uc_emu_stop
        self._read = uclib.uc_reg_read
        self._word = ctypes.c_uint64()
        self._word_ref = ctypes.byref(self._word)

    def _locate(self, handle: int) -> EnvState:
        pattern = b""
        for number, register in enumerate(
            (x86.UC_X86_REG_RAX, x86.UC_X86_REG_RCX, x86.UC_X86_REG_RDX, x86.UC_X86_REG_RBX)
        ):
            value = 0x5AFE_0000_0000_0000 + (id(self) << 4 & 0xFFFF_FFFF_FFF0) + number
            self._uc.reg_write(register, value)
            pattern += value.to_bytes(8, "little")
        if _Layout.env is None:
            _Layout.env = _find_env(handle, pattern)
        at_cpu, at_env = _Layout.env
        base = ctypes.c_uint64.from_address(handle + at_cpu).value + at_env
        env = EnvState.from_address(base)
        self._uc.reg_write(x86.UC_X86_REG_MXCSR, 0x1FA0)
        self._uc.reg_write(x86.UC_X86_REG_TR, (0x28, 0xABC000, 0x67, 0x8B00))
        self._uc.msr_write(0xC0000102, 0x777)
        ok = (
            ctypes.string_at(base, len(pattern)) == pattern
            and uclib.uc_context_size(self._handle) - 40 == EnvState.end_reset_fields.offset
            and (env.mxcsr, env.tr.base, env.tr.limit) == (0x1FA0, 0xABC000, 0x67)
            and (env.kernelgsbase, env.old_exception, env.a20_mask) == (0x777, -1, -1)
        )
        if not ok:
            raise UnsupportedUnicornError(
                f"Unicorn {unicorn.__version__} lays its registers out in another way"
            )
        return env

    def hook(
        self,
        fill: FillHook,
        interrupt: Callable[[int], None],
        invalid: Callable[[], bool],
        tsc: Callable[[bool], None],
        port: Callable[[int, int, int | None], None],
        syscall: Callable[[], None],
    ) -> None:
        """Install the callbacks; an exception in one ends `run`, which raises it."""

        def on_fill(_uc: int, va: int, access: int, entry: Any, _user: int) -> bool:
            try:
                result = fill(va, access)
            except BaseException as error:  # noqa: BLE001  raised again by run()
                self._fail(error)
                return False
            if result is None:
                return False
            contents = entry.contents
            contents.paddr, contents.perms = result
            return True

        def on_interrupt(_uc: int, number: int, _user: int) -> None:
            try:
                interrupt(number)
            except BaseException as error:  # noqa: BLE001  raised again by run()
                self._fail(error)

        def on_invalid(_uc: int, _user: int) -> bool:
            try:
                return invalid()
            except BaseException as error:  # noqa: BLE001  raised again by run()
                self._fail(error)
                return True

        def on_tsc(auxiliary: bool) -> Callable[[int, int], int]:
            def read(_uc: int, _user: int) -> int:
                try:
                    tsc(auxiliary)
                except BaseException as error:  # noqa: BLE001  raised again by run()
                    self._fail(error)
                return 1

            return read

        def on_in(_uc: int, number: int, size: int, _user: int) -> int:
            try:
                port(number, size, None)
            except BaseException as error:  # noqa: BLE001  raised again by run()
                self._fail(error)
            return 0

        def on_out(_uc: int, number: int, size: int, value: int, _user: int) -> None:
            try:
                port(number, size, value)
            except BaseException as error:  # noqa: BLE001  raised again by run()
                self._fail(error)

        def on_syscall(_uc: int, _user: int) -> None:
            try:
                syscall()
            except BaseException as error:  # noqa: BLE001  raised again by run()
                self._fail(error)

        self._add(const.UC_HOOK_TLB_FILL, _FILL(on_fill))
        self._add(const.UC_HOOK_INTR, _INTR(on_interrupt))
        self._add(const.UC_HOOK_INSN_INVALID, _INVALID(on_invalid))
        self._add(const.UC_HOOK_INSN, _INSN(on_tsc(False)), x86.UC_X86_INS_RDTSC)
        self._add(const.UC_HOOK_INSN, _INSN(on_tsc(True)), x86.UC_X86_INS_RDTSCP)
        self._add(const.UC_HOOK_INSN, _IN(on_in), x86.UC_X86_INS_IN)
        self._add(const.UC_HOOK_INSN, _OUT(on_out), x86.UC_X86_INS_OUT)
        self._add(const.UC_HOOK_INSN, _SYSCALL(on_syscall), x86.UC_X86_INS_SYSCALL)

    def _add(self, kind: int, callback: Any, instruction: int | None = None) -> None:
        number = ctypes.c_size_t()
        extra = () if instruction is None else (ctypes.c_int(instruction),)
        status = uclib.uc_hook_add(
            self._handle,
            ctypes.byref(number),
            kind,
            ctypes.cast(callback, _VOID_P),
            None,
            ctypes.c_uint64(1),
            ctypes.c_uint64(0),
            *extra,
        )
        if status:
            raise unicorn.UcError(status)
        self._callbacks.append(callback)

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        self._stop(self._handle)

    def run(self, count: int) -> int:
        """Execute up to `count` instructions from env.eip; Unicorn's status (0: none failed).

        `executed` then says how many were begun, the one that stopped it included.
        """
        env = self.env
        self.inside = True
        try:
            status: int = self._start(self._handle, env.eip, 0, 0, count)
        finally:
            self.inside = False
        if self.failure is not None:
            error, self.failure = self.failure, None
            raise error
        return status

    @property
    def executed(self) -> int:
        """Instructions begun since `run` was called."""
        return self._counter.value

    @property
    def failed_address(self) -> int:
        """Virtual address of the access that ended `run`."""
        return self._failed.value

    def stop(self) -> None:
        """Leave `run` before the next instruction."""
        self._stop(self._handle)

    def flush_tlb(self) -> None:
        """Forget all translations of addresses."""
        self._uc.ctl(const.UC_CTL_TLB_FLUSH, const.UC_CTL_IO_WRITE)

    def flush_code(self) -> None:
        """Forget all translated code."""
        self._uc.ctl_flush_tb()

    @property
    def flags(self) -> int:
        """RFLAGS, wherever the emulation stands."""
        if not self.inside:
            return int(self.env.eflags)
        if self.env.cc_op == CC_OP_EFLAGS:
            return int(self.env.eflags | self.env.cc_src | self.env.df & RF_DF)
        self._read(self._handle, x86.UC_X86_REG_RFLAGS, self._word_ref)
        return self._word.value

    @flags.setter
    def flags(self, value: int) -> None:
        env = self.env
        env.cc_src = value & CC_MASK
        env.cc_op = CC_OP_EFLAGS
        env.df = -1 if value & RF_DF else 1
        # While running QEMU keeps these bits elsewhere; on entry it takes them from eflags.
        env.eflags = (value & ~(CC_MASK | RF_DF) if self.inside else value) | 2

    @property
    def mxcsr(self) -> int:
        """MXCSR."""
        return int(self.env.mxcsr)

    def set_mxcsr(self, value: int) -> None:
        """MXCSR and the rounding modes QEMU derives from it."""
        self._uc.reg_write(x86.UC_X86_REG_MXCSR, value)

    def set_fpcw(self, value: int) -> None:
        """x87 control word and the rounding modes QEMU derives from it."""
        self._uc.reg_write(x86.UC_X86_REG_FPCW, value)

    def close(self) -> None:
        """Free the engine; the Engine is not used after that."""
        self._callbacks.clear()
        self._uc = None
