# SPDX-License-Identifier: GPL-2.0-only
"""Booting a kernel under test: the machine, the agent in it, a Kernel to drive it by.

The root filesystem is this machine's, read-only over 9p.  The agent speaks over a
virtio-serial port, whose other end is a Unix socket that QEMU connects to.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import time
from pathlib import Path

from harness import agent, kbuild
from harness.errors import BuildError
from harness.host_packages import ensure_packages
from harness.kernel import TargetError
from harness.vng import init
from harness.vng.accel import accelerated
from harness.vng.machine import STOCK, Machine, Paths, agent_command
from harness.vng.qemu import Qemu
from harness.wire import RemoteKernel

BOOT_TIMEOUT = 180.0
"""Seconds from the start of QEMU to the agent's first word; 4 to 10 are usual under TCG."""


class VngKernel(RemoteKernel):
    """A booted kernel, in its QEMU."""

    def __init__(
        self, name: str, connection: socket.socket, qemu: Qemu, hello_timeout: float
    ) -> None:
        self.qemu = qemu
        self.console = qemu.console
        fd = connection.detach()
        super().__init__(
            name,
            fd,
            fd,
            last_seen=qemu.console.tail,
            on_close=qemu.stop,
            hello_timeout=hello_timeout,
        )

    def log(self) -> str:
        """Return the kernel log; that of a dead kernel is what reached its console."""
        try:
            return super().log()
        except TargetError:
            return self.console.text()


def boot(
    kernel: kbuild.KernelBuild,
    *,
    machine: Machine = STOCK,
    memory: str = "1G",
    cpus: int = 2,
    parameters: tuple[str, ...] = (),
    timeout: float = BOOT_TIMEOUT,
) -> VngKernel:
    """Boot a kernel, load its modules, send the agent; BuildError ends with the console's tail.

    `parameters` are added to the kernel's command line.
    """
    if shutil.which(machine.qemu) is None:
        ensure_packages(["qemu-system-x86"], "for booting kernels")
    deadline = time.monotonic() + timeout
    paths = Paths(Path(tempfile.mkdtemp(prefix="snptest-vng-")))
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, paths.scratch, ignore_errors=True)
        listener = undo.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(paths.agent))
        listener.listen(1)
        _share(kernel, paths.share)
        command = agent_command(
            machine,
            kernel.bzimage,
            paths,
            memory=memory,
            cpus=cpus,
            accelerated=accelerated(kernel.bzimage),
            parameters=parameters,
        )
        qemu = Qemu(kernel.name, paths.scratch, command)
        undo.callback(qemu.stop)
        try:
            connection = qemu.accept(listener, deadline)
            left = max(deadline - time.monotonic(), 1)
            target = VngKernel(kernel.name, connection, qemu, left)
        except (TargetError, TimeoutError, OSError) as error:
            qemu.stop()
            reason = str(error).partition("; last seen:")[0]
            raise BuildError(
                f"kernel {kernel.name} did not boot: {reason}; its console ends:\n"
                f"{qemu.console.tail()}",
                f"all of it: {qemu.console.path}",
            ) from None
        undo.pop_all()
        listener.close()
        return target


def _share(kernel: kbuild.KernelBuild, folder: Path) -> None:
    """Put what the guest gets from us into a folder."""
    folder.mkdir()
    for module in kernel.modules:
        shutil.copy(kernel.directory / module, folder / module)
    for program in (agent, init):
        assert program.__file__ is not None
        shutil.copy(program.__file__, folder)
    (folder / "modules").write_text("".join(f"{each}\n" for each in kernel.modules))
