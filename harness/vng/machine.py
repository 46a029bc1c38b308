# SPDX-License-Identifier: GPL-2.0-only
"""The machines a kernel can be booted on, and QEMU's command line for them.

virtme-ng composes the command (root filesystem over 9p, console, kernel parameters); it is
asked for it by `virtme-run --dry-run`, and what differs here is exchanged in it: init, the
console's and the script's ports.  QEMU is then started by ourselves, to have its process,
its exit status and its monitor.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.command import captured
from harness.errors import BuildError, UsageError, UserError
from harness.vng import snp
from harness.vng.accel import accelerated
from harness.vng.kinds import STOCK, Machine

VIRTME_TIMEOUT = 60.0
DEFAULT_MEMORY = "1G"
PORT = "snptest.agent"
STATUS = "snptest.status"
WORK = "/run/snptest-work"
"""Where a shell's working directory is seen that the guest would not see."""
_SIZE = re.compile(r"[1-9][0-9]{0,5}[MG]", re.ASCII)
# The last word of the kernel's command line; in quotes where there is a space in it.
_INIT = re.compile(r'(?<!\S)(?:"init=[^"]+"|init=\S+)$')
_VALUE = re.compile(r'^([^"=]+=)"([^"]*)"$')
_ROOT = re.compile(r"(?<=\srootflags=)\S+")


def check_memory(size: str) -> None:
    """Raise UsageError where a text is no size of memory."""
    if not _SIZE.fullmatch(size):
        raise UsageError(f"{size!r} is no size of memory", "a number and M or G: 512M, 2G")


@dataclass(frozen=True, slots=True)
class Paths:
    """Files and sockets that one QEMU uses."""

    scratch: Path
    """A folder that goes when QEMU does; no letter of its name means anything to QEMU or Linux."""
    console: Path
    """Where the console is kept."""

    @property
    def kept(self) -> Path:
        """A link to the folder of what outlives QEMU, for QEMU: in its options a comma ends a
        name, and -D takes no '%'."""
        return self.scratch / "kept"

    @property
    def agent(self) -> Path:
        """The socket that the agent's port leads to; we listen."""
        return self.scratch / "agent.sock"

    @property
    def monitor(self) -> Path:
        """The socket of QEMU's monitor; QEMU listens."""
        return self.scratch / "qmp.sock"

    @property
    def resets(self) -> Path:
        """QEMU's log of CPU resets, triple faults among them; it outlives QEMU."""
        return self.console.with_suffix(".resets.log")

    @property
    def status(self) -> Path:
        """Where a command's exit status arrives; it outlives QEMU."""
        return self.console.with_suffix(".status.log")

    @property
    def psp(self) -> Path:
        """The socket of the PSP's firmware, which listens."""
        return self.scratch / "psp.sock"

    @property
    def firmware(self) -> Path:
        """What the PSP's firmware says; it outlives QEMU."""
        return self.console.with_suffix(".firmware.log")

    @property
    def share(self) -> Path:
        """What the guest gets from us; it sees the folder under the same name."""
        return self.scratch / "share"


@dataclass(frozen=True, slots=True)
class Setup:
    """A machine to boot a kernel on, as the user wants it."""

    image: Path
    """The bzImage."""
    machine: Machine = STOCK
    memory: str = DEFAULT_MEMORY
    """A number and M or G."""
    cpus: int = 2
    parameters: tuple[str, ...] = ()
    """For the kernel's command line."""
    asids: int | None = None
    """How many SEV-ES and SNP guests there may be at once, on a machine that has SNP; None: as
    many as on EPYC 7003."""

    gdb: Path | None = None
    """A socket on which QEMU waits for gdb; the machine runs meanwhile."""

    def __post_init__(self) -> None:
        check_memory(self.memory)

    @property
    def accelerated(self) -> bool:
        """Whether KVM can run it."""
        return self.machine.accelerated is not None and accelerated(self.image)

    def qemu_options(self, psp: Path) -> tuple[str, ...]:
        """Return what makes QEMU that machine; `psp` is the socket of the PSP's firmware."""
        gdb = ("-gdb", f"unix:{self.gdb},server=on,wait=off") if self.gdb else ()
        return (*self._kind_options(psp), *gdb)

    def _kind_options(self, psp: Path) -> tuple[str, ...]:
        if self.machine.psp:
            own = snp.options(psp, memory=self.memory, cpus=self.cpus, asids=self.asids)
            return (*self.machine.options, *own)
        if self.accelerated and self.machine.accelerated is not None:
            return self.machine.accelerated
        return self.machine.options


def agent_command(setup: Setup, paths: Paths) -> list[str]:
    """Return QEMU's command for a kernel whose process 1 starts our agent.

    The root is this machine's, read-only.
    """
    return [
        *_without_ports(_common(setup, paths)),
        *("-chardev", f"socket,id=snptest,path={paths.agent}"),
        *("-device", "virtio-serial-pci,id=snptest-bus"),
        *("-device", f"virtserialport,bus=snptest-bus.0,chardev=snptest,name={PORT}"),
    ]


def script_command(setup: Setup, paths: Paths) -> list[str]:
    """Return QEMU's command for a kernel whose process 1 runs a command of the user's.

    QEMU's standard input and output are the command's; its exit status goes to `paths.status`.
    """
    return [
        f"file,id=ret,path={paths.kept / paths.status.name}"
        if word.startswith("file,id=ret,")
        else word
        for word in _common(setup, paths)
    ]


def shell_command(setup: Setup, paths: Paths, work: Path | None = None) -> list[str]:
    """Return virtme-ng's command for a shell on this terminal, in all that its init sets up.

    `paths.share` is seen as /run/snptest; its file `shell` is the shell to start.  What that
    writes to the port STATUS goes to `paths.status`.  The folder `work` is seen as WORK.
    """
    # Not --pwd: its folder would be a word of the kernel's command line, and has to be there
    # before the shell is.
    folders = [f"--rodir=run/snptest={paths.share}"]
    if work is not None:
        folders.append(f"--rodir={WORK.lstrip('/')}={work}")
    return [
        *_options(setup),
        *(*folders, "--shell", "/run/snptest/shell"),
        *("--qemu-opts", *setup.qemu_options(paths.psp)),
        *("-chardev", f"file,id=snptest,path={paths.kept / paths.status.name}"),
        *("-device", "virtio-serial-pci,id=snptest-bus"),
        *("-device", f"virtserialport,bus=snptest-bus.0,chardev=snptest,name={STATUS}"),
    ]


def _common(setup: Setup, paths: Paths) -> list[str]:
    """Have virtme-ng compose a command, with our init in it."""
    command = _virtme(setup, paths, "--script-sh", ":")
    at = command.index("-append") + 1
    arguments = f"-- -I -S {paths.share}/init.py {paths.share} {PORT}"
    if not setup.accelerated:
        arguments += " pin"
    init = f"{_quoted(f'init={python()}')} {arguments}"
    command[at] = _exchanged(_INIT, lambda found: init, command[at])
    # Without it every page of a program is fetched from us each time it is mapped.
    command[at] = _exchanged(_ROOT, lambda found: f"{found},cache=mmap", command[at])
    return [*command, *setup.qemu_options(paths.psp), *_observed(paths)]


def _observed(paths: Paths) -> list[str]:
    """Options to look into QEMU by, and to be told about a triple fault."""
    return [
        *("-qmp", f"unix:{paths.monitor},server=on,wait=off"),
        *("-d", "cpu_reset", "-D", str(paths.kept / paths.resets.name)),
    ]


def _virtme(setup: Setup, paths: Paths, *options: str) -> list[str]:
    """Have virtme-run compose a command.  What it leaves behind lies in the scratch folder."""
    command = [
        *_options(setup),
        *("--dry-run", "--show-command", "--show-boot-console", "--verbose", *options),
    ]
    environment = {**os.environ, "TMPDIR": str(paths.scratch)}
    late = "virtme-run composed no command"
    done = captured(command, VIRTME_TIMEOUT, late, environment=environment)
    lines = [line for line in done.stdout.splitlines() if " -kernel " in line]
    if done.returncode or not lines:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise BuildError(f"virtme-run failed: {said[-1] if said else 'it gave no reason'}")
    return shlex.split(lines[-1])


def _exchanged(pattern: re.Pattern[str], change: Callable[[str], str], line: str) -> str:
    """Change what virtme-ng put into the kernel's command line."""
    line, count = pattern.subn(lambda match: change(match[0]), line)
    if not count:
        raise UserError(
            f"virtme-ng's kernel command line does not match {pattern.pattern!r}",
            f"this virtme-ng is not one that snptest knows: {line}",
        )
    return line


def _quoted(word: str) -> str:
    """Put a word of the kernel's command line in quotes where there is a space in it."""
    return f'"{word}"' if " " in word else word


def _unquoted(parameter: str) -> str:
    """Return a kernel parameter without quotes around its value: virtme-run adds its own.

    UsageError where there are others: Linux has no way to write one.
    """
    plain = _VALUE.sub(r"\1\2", parameter)
    if '"' in plain or "\n" in plain:
        raise UsageError(
            f"kernel parameter {parameter!r} has quotes inside",
            "quotes may stand around a whole value: -p 'kvm.dyndbg=\"file sev.c +p\"'",
        )
    return plain


def _options(setup: Setup) -> list[str]:
    """Return what every virtme-run of ours begins with."""
    program = virtme_run()
    if program is None:
        raise UserError("virtme-ng is not there", "start snptest by ./snptest, which installs it")
    command = [program, "--kimg", str(setup.image), "--mods", "none", "--memory", setup.memory]
    command += ["--cpus", str(setup.cpus), "--force-9p", "--disable-microvm"]
    # Without it virtme-run looks for the distribution's, which need not be there.
    command += ["--qemu-bin", _binary(setup.machine)]
    if not setup.accelerated:
        command.append("--disable-kvm")
    # Without CONFIG_BLOCK the kernel looks for 9p's root only if told so.
    for parameter in ("root=/dev/root", *map(_unquoted, setup.parameters)):
        command += ["--kopt", parameter]
    return command


def _without_ports(command: list[str]) -> list[str]:
    """Leave out the ports for a script's input and output: each costs time to probe."""
    kept: list[str] = []
    unused: set[str] = set()
    words = iter(command)
    for word in words:
        if word != "-device":
            kept.append(word)
            continue
        value = next(words)
        if value.startswith("virtserialport,name=virtme."):
            unused.add(value.rpartition("chardev=")[2])
            if kept[-2:] == ["-device", "virtio-serial-pci"]:  # the bus of this port alone
                del kept[-2:]
        else:
            kept += [word, value]
    dropped = [index for index, word in enumerate(kept) if unused & set(_ids(word))]
    return [
        word for index, word in enumerate(kept) if index not in dropped and index + 1 not in dropped
    ]


def _ids(chardev: str) -> list[str]:
    return [part[3:] for part in chardev.split(",") if part.startswith("id=")]


def _binary(machine: Machine) -> str:
    found = shutil.which(machine.qemu)
    if found is None:
        raise UserError(f"{machine.qemu} is not there", "apt-get install qemu-system-x86")
    return found


def virtme_run() -> str | None:
    """Find virtme-run beside this Python, or in PATH."""
    beside = Path(sys.executable).with_name("virtme-run")
    return str(beside) if beside.exists() else shutil.which("virtme-run")


def python() -> str:
    """Return a Python that the guest sees, too, whatever environment ours is in."""
    system = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    return system or os.path.realpath(sys.executable)
