# SPDX-License-Identifier: GPL-2.0-only
"""A kernel built by `snptest build`, booted by virtme-ng on stock QEMU.

The root filesystem is this machine's, read-only over 9p; agent and modules come in a second
9p mount.  The agent speaks over a virtio-serial port, whose other end is a Unix socket that
QEMU connects to.  The test process stays outside.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from harness import agent, kbuild
from harness import leash as leash_program
from harness.backends.base import Backend
from harness.backends.consolelog import ConsoleLog
from harness.errors import BuildError, UsageError, UserError
from harness.host_packages import ensure_packages
from harness.kernel import Kernel, TargetError
from harness.wire import RemoteKernel

BOOT_TIMEOUT = 90.0
"""Seconds from the start of QEMU to the agent's first word; 5 to 10 are usual under TCG."""

PROBE_TIMEOUT = 20.0
PORT = "snptest.agent"
SHARE = "run/snptest"
"""Where the guest sees what it gets from us."""

QEMU = "qemu-system-x86_64"


class VngKernel(RemoteKernel):
    """A booted kernel; `console` is what its serial console said, `leash` holds QEMU."""

    def __init__(
        self,
        name: str,
        connection: socket.socket,
        console: ConsoleLog,
        leash: subprocess.Popen[bytes],
        hello_timeout: float,
    ) -> None:
        self.console, self.leash = console, leash
        fd = connection.detach()
        super().__init__(
            name,
            fd,
            fd,
            last_seen=console.tail,
            on_close=lambda: _stop(leash, console),
            hello_timeout=hello_timeout,
        )

    def log(self) -> str:
        """Return the kernel log; that of a dead kernel is what reached its console."""
        try:
            return super().log()
        except TargetError:
            return self.console.text()


class VngBackend(Backend):
    """Boots kernels under virtme-ng."""

    name: ClassVar[str] = "vng"
    reusable: ClassVar[bool] = True

    def open(self, revision: str | None, seed: int, **options: Any) -> Kernel:
        """Boot the kernel that `--kernel` names; its code decides the revision."""
        chosen = options.get("kernel")
        if chosen is None:
            known = ", ".join(each.name for each in kbuild.list_kernels()) or "none was built yet"
            raise UsageError("--backend vng needs --kernel NAME", f"known: {known}")
        return boot(kbuild.get(str(chosen)))

    def unavailable(self) -> str | None:
        """Without QEMU or a kernel nothing can be booted."""
        if _virtme_run() is None:
            return "virtme-ng is not there: start snptest by ./snptest, which installs it"
        if shutil.which(QEMU) is None and shutil.which("apt-get") is None:
            return f"{QEMU} is missing: install QEMU for x86"
        if not kbuild.list_kernels():
            return "no kernel was built yet: ./snptest build NAME --base linux-source-6.12"
        return None


def boot(
    kernel: kbuild.KernelBuild,
    *,
    memory: str = "1G",
    cpus: int = 2,
    parameters: tuple[str, ...] = (),
    timeout: float = BOOT_TIMEOUT,
) -> VngKernel:
    """Boot a kernel, load its modules, send the agent; BuildError ends with the console's tail.

    `parameters` are added to the kernel's command line.
    """
    if shutil.which(QEMU) is None or shutil.which("insmod") is None:
        ensure_packages(["qemu-system-x86", "kmod"], "for booting kernels")
    deadline = time.monotonic() + timeout
    scratch = tempfile.mkdtemp(prefix="snptest-vng-")
    path = f"{scratch}/agent.sock"
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, scratch, ignore_errors=True)
        listener = undo.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(1)
        share = _share(kernel, Path(scratch))
        command = _command(kernel, share, path, memory, cpus, parameters)
        process, console = _start(kernel.name, scratch, command)
        undo.callback(_stop, process, console)
        try:
            connection = _accept(listener, process, deadline)
            target = VngKernel(
                kernel.name,
                connection,
                console,
                process,
                max(deadline - time.monotonic(), 1),
            )
        except (TargetError, TimeoutError, OSError) as error:
            _stop(process, console)
            reason = str(error).partition("; last seen:")[0]
            raise BuildError(
                f"kernel {kernel.name} did not boot: {reason}; its console ends:\n{console.tail()}",
                f"all of it: {console.path}",
            ) from None
        undo.pop_all()
        listener.close()
        return target


def _share(kernel: kbuild.KernelBuild, scratch: Path) -> Path:
    """Put what the guest gets from us into a directory; `start` runs there first."""
    share = scratch / "share"
    share.mkdir()
    for module in kernel.modules:
        shutil.copy(kernel.directory / module, share / module)
    shutil.copy(agent.__file__, share / "agent.py")
    lines = [f"insmod /{SHARE}/{module} || exit 1" for module in kernel.modules]
    # Not the site's packages, not the user's environment: only the standard library.
    lines.append(f"exec {_python()} -I -S /{SHARE}/agent.py virtio:{PORT}")
    (share / "start").write_text("\n".join(lines) + "\n")
    return share


def _command(
    kernel: kbuild.KernelBuild,
    share: Path,
    path: str,
    memory: str,
    cpus: int,
    parameters: tuple[str, ...],
) -> list[str]:
    """Return the virtme-run command line (vng(1) would only join it into a shell's)."""
    virtme_run = _virtme_run()
    if virtme_run is None:
        raise UserError("virtme-ng is not there", "start snptest by ./snptest, which installs it")
    fast = accelerated(kernel.bzimage)
    options = [f"--{option}" for option in ("force-9p", "disable-microvm", "verbose")]
    if not fast:
        options.append("--disable-kvm")
    # Without CONFIG_BLOCK the kernel looks for 9p's root only if told so.
    for parameter in ("root=/dev/root", *parameters):
        options += ["--kopt", parameter]
    return [
        virtme_run,
        *("--kimg", str(kernel.bzimage), "--mods", "none"),
        *("--memory", memory, "--cpus", str(cpus)),
        *options,
        "--show-boot-console",
        f"--rodir={SHARE}={share}",
        # Short: it travels on the kernel's command line, which ends at 2048 characters.
        *("--script-sh", f"sh /{SHARE}/start"),
        "--qemu-opts",
        *("-cpu", "host" if fast else "max,+svm"),
        *("-chardev", f"socket,id=snptest,path={path}"),
        *("-device", "virtio-serial-pci,id=snptest-bus"),
        *("-device", f"virtserialport,bus=snptest-bus.0,chardev=snptest,name={PORT}"),
    ]


def _start(
    name: str, scratch: str, command: list[str]
) -> tuple[subprocess.Popen[bytes], ConsoleLog]:
    """Start virtme-run on a leash, everything it prints going to the console's file."""
    # A pipe, not a file: QEMU opens it several times, and each would write from the start.
    reader, writer = os.pipe2(os.O_CLOEXEC)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(leash_program.__file__)), scratch, *command],
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=writer,
        env={**os.environ, "TMPDIR": scratch},
        start_new_session=True,
    )
    os.close(writer)
    return process, ConsoleLog(name, reader)


def _stop(process: subprocess.Popen[bytes], console: ConsoleLog) -> None:
    """Let go of the leash: QEMU and all are killed."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    console.close()


def _accept(
    listener: socket.socket, process: subprocess.Popen[bytes], deadline: float
) -> socket.socket:
    """Wait for QEMU to connect; TargetError when it ends or takes too long."""
    ended = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(ended, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(deadline - time.monotonic(), 0) * 1000)}
    finally:
        os.close(ended)
    if listener.fileno() in ready:
        return listener.accept()[0]
    if ready:
        raise TargetError(f"QEMU did not start (status {process.wait(1)})")
    raise TargetError("QEMU did not connect in time")


@cache
def accelerated(bzimage: Path) -> bool:
    """Whether KVM can run a kernel that itself uses SVM: on AMD, with nesting, if it works.

    /dev/kvm may be there and hang its guests, so a kernel is booted to its panic for want of
    a root filesystem, under a deadline.
    """
    nested = Path("/sys/module/kvm_amd/parameters/nested")
    try:
        if nested.read_text().strip() not in ("1", "Y") or not os.access("/dev/kvm", os.W_OK):
            return False
    except OSError:
        return False
    command = [QEMU, "-accel", "kvm", "-cpu", "host", "-m", "512M", "-display", "none"]
    command += ["-no-reboot", "-nodefaults", "-serial", "stdio", "-kernel", str(bzimage)]
    command += ["-append", "console=ttyS0 panic=-1"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"Kernel panic" in done.stdout


def _virtme_run() -> str | None:
    """Find virtme-run beside this Python, or in PATH."""
    beside = Path(sys.executable).with_name("virtme-run")
    return str(beside) if beside.exists() else shutil.which("virtme-run")


def _python() -> str:
    """Return a Python that the guest sees, too: /tmp, where ours may be, is hidden there."""
    system = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    return system or os.path.realpath(sys.executable)
