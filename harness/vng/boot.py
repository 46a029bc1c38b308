# SPDX-License-Identifier: GPL-2.0-only
"""Booting a kernel under test: the machine, the agent in it, a Kernel to drive it by.

The root filesystem is this machine's, read-only over 9p.  The agent speaks over a
virtio-serial port, whose other end is a Unix socket that QEMU connects to.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from harness import kbuild
from harness.errors import BootError
from harness.kernel import Death
from harness.machine.gmem_pages import MODULE
from harness.machine.inspector import MachineInspector
from harness.operations import TargetError, Ticket, WriteFile
from harness.report import sanitize
from harness.splats.symbols import Symbols
from harness.vng.consolelog import new_path
from harness.vng.kinds import STOCK, Machine
from harness.vng.machine import DEFAULT_MEMORY, Setup, agent_command
from harness.vng.monitor import MonitorError
from harness.vng.qemu import Qemu
from harness.vng.scene import autopsy, examine
from harness.vng.share import fill, make_paths, need_qemu
from harness.wire import RemoteKernel

BOOT_TIMEOUT = 180.0
"""Seconds from the start of QEMU to the agent's first word; 4 to 10 are usual under TCG."""


NOTE_TIMEOUT = 10.0
"""Seconds in which a line put into the kernel's log comes out of its console."""

PARAMETERS = (
    # Where an address is in the kernel says which function it is.
    "nokaslr",
    # What has faulted once cannot be trusted: its death comes at once, not some tests later.
    "oops=panic",
    # A hung kernel gets an NMI, to say where it hangs.
    "unknown_nmi_panic",
    # Linux counts the timer's interrupts while it waits in a loop; a busy host brings too few.
    "no_timer_check",
    # A guest that cannot be entered: its VMCB is in the log.
    "kvm_amd.dump_invalid_vmcb=1",
    # Notes in the log, as many as there are tests.
    "printk.devkmsg=on",
)


_SETTLED = "so far"
_SETTLE = re.compile(rf"^\[[^\n]*\] snptest \d+: {_SETTLED}\r?\n", re.MULTILINE)


class VngKernel(RemoteKernel):
    """A booted kernel, in its QEMU."""

    boots_anew = True

    def __init__(
        self,
        kernel: kbuild.KernelBuild,
        connection: socket.socket,
        qemu: Qemu,
        environment: frozenset[str],
        hello_timeout: float,
    ) -> None:
        self.qemu = qemu
        self.build = kernel
        self.symbols = Symbols(kernel.vmlinux, kernel.debug_modules, kernel.decoder)
        self.release = kernel.release
        self.image = kernel.bzimage
        self.environment = environment
        self._notes = itertools.count(1)
        self._noting: Ticket | None = None
        self._mute = False
        self._use = contextlib.ExitStack()
        self.console = qemu.console
        fd = connection.detach()
        super().__init__(
            kernel.name,
            fd,
            fd,
            last_seen=qemu.console.tail,
            on_close=self._closed,
            hello_timeout=hello_timeout,
        )

    def keep(self, use: contextlib.ExitStack) -> None:
        """Hold something until the kernel is shut down."""
        self._use.push(use)

    def boot_anew(self, argv: Sequence[str], timeout: float, *, by_reset: bool = False) -> None:
        """Have a program end the kernel, and wait for the next one's agent at the same port."""
        self._written()
        if by_reset:
            self.qemu.monitor.ask("set-action", reboot="reset")
        try:
            super().boot_anew(argv, timeout)
            self.qemu.forget_resets()
        finally:
            if by_reset:
                with contextlib.suppress(MonitorError):  # QEMU may have gone
                    self.qemu.monitor.ask("set-action", reboot="shutdown")

    def _closed(self) -> None:
        self.qemu.stop()
        self._use.close()

    def log(self) -> str:
        """Return what reached the console: all that dmesg has, and a dead kernel's last words."""
        self.note(_SETTLED)  # what is under way to the console arrives before it
        return _SETTLE.sub("", self.console.text())

    def note(self, text: str) -> bool:
        """Put a line into the kernel's log and wait until it is on the console."""
        mark = self._write_note(text)
        return mark is not None and self._written() and self.console.wait_for(mark, NOTE_TIMEOUT)

    def mark(self, text: str) -> None:
        """Put a line into the kernel's log ahead of what is done next; wait for nothing."""
        self._write_note(text)

    def _write_note(self, text: str) -> str | None:
        """Begin to write a note; return what it starts with, None where the kernel is lost."""
        if self._mute or not self._written():
            return None
        mark = f"snptest {next(self._notes)}:"
        line = f"{mark} {sanitize.line(text, 200)}"
        try:
            self._noting = self.start([WriteFile("/dev/kmsg", f"{line}\n".encode())])
        except TargetError:
            self._mute = True
            return None
        return mark

    def _written(self) -> bool:
        """Wait for the note that is under way; a hung kernel is waited for once."""
        ticket, self._noting = self._noting, None
        if ticket is not None:
            try:
                self.wait(ticket, NOTE_TIMEOUT)
            except TargetError:
                self._mute = True
        return not self._mute

    def trouble(self) -> str | None:
        """Say that the console cannot be kept."""
        error = self.console.error
        return f"the console could not be kept: {error}" if error else None

    def autopsy(self) -> Death:
        """Find out what became of the kernel."""
        return autopsy(self, self.qemu, self.build.directory / "System.map")


def boot(
    kernel: kbuild.KernelBuild,
    *,
    machine: Machine = STOCK,
    memory: str = DEFAULT_MEMORY,
    cpus: int = 2,
    parameters: tuple[str, ...] = (),
    asids: int | None = None,
    modules: tuple[str, ...] = (),
    gdb: Path | None = None,
    timeout: float = BOOT_TIMEOUT,
) -> VngKernel:
    """Boot a kernel, load its modules, send the agent; BootError ends with the console's tail.

    `parameters` are added to the kernel's command line, `modules` (of the build's
    extra_modules) are loaded, too; `asids` and `gdb` are Setup's.
    """
    setup = Setup(kernel.bzimage, machine, memory, cpus, (*PARAMETERS, *parameters), asids, gdb)
    need_qemu(machine)
    # Without it, as a kernel of an older snptest is, no RMP entry can be looked at.
    look = machine.psp and MODULE in kernel.extra_modules
    if look and MODULE not in modules:
        modules = (*modules, MODULE)
    deadline = time.monotonic() + timeout
    paths = make_paths(new_path(kernel.name))
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, paths.scratch, ignore_errors=True)
        use = undo.enter_context(contextlib.ExitStack())
        use.enter_context(kernel.in_use())
        listener = undo.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(paths.agent))
        listener.listen(1)
        fill(paths.share, kernel, modules)
        command = agent_command(setup, paths)
        qemu = Qemu(paths, command, psp=machine.psp)
        undo.callback(qemu.stop)
        try:
            connection = qemu.accept(listener, deadline)
            left = max(deadline - time.monotonic(), 1)
            environment = frozenset({machine.name, "kvm" if setup.accelerated else "tcg"})
            target = VngKernel(kernel, connection, qemu, environment, left)
        except (TargetError, TimeoutError, OSError) as error:
            reason = str(error).partition("; last seen:")[0]
            death = examine(qemu, kernel.directory / "System.map", lost=True)
            qemu.stop()
            raise BootError(
                f"kernel {kernel.name} did not boot ({death.kind}: {death.summary}): {reason}; "
                f"its console ends:\n{qemu.console.tail()}",
                f"all of it: {qemu.console.path}",
            ) from None
        if look:
            target.inspector = MachineInspector(target, qemu.monitor.ask, paths.psp)
        target.keep(use.pop_all())
        undo.pop_all()
        listener.close()
        return target
