# SPDX-License-Identifier: GPL-2.0-only
"""Booting a kernel on a host, once: what runs when it dies is the kernel that was there before."""

from __future__ import annotations

import subprocess

from harness.errors import BootError, HostError
from harness.kbuild import KernelBuild
from harness.kernel import Kernel
from harness.operations import TargetError
from harness.report import sanitize
from harness.ssh.hosts import Host
from harness.ssh.install import Installed, command, said
from harness.ssh.kexec import why_not_loaded

PREPARE_TIMEOUT = 600.0
"""Seconds that boot.prepare or boot.command may take: they may make an initrd."""
LEAVE_TIMEOUT = 60.0
"""Seconds in which the command that leaves the old kernel returns, or the host is gone."""
POWER_TIMEOUT = 120.0
"""Seconds that a power-cycle command may take."""

PARAMETERS = (
    # A kernel that died gives the host back; what has faulted once cannot be trusted.
    "panic=10",
    "oops=panic",
    "softlockup_panic=1",
    "hung_task_panic=1",
    "printk.devkmsg=on",
)


TOKEN = "snptest.boot"
"""Parameter that tells one boot of ours from every other; kexec has what is ours follow it."""


def parameters(host: Host) -> tuple[str, ...]:
    """Return what every kernel that is booted there has on its command line."""
    return (*PARAMETERS, *host.boot.parameters.split())


def carries(host: Host) -> bool:
    """Whether a kernel gets the parameters: by kexec, or by commands that make use of them."""
    way = host.boot
    return way.how == "kexec" or "SNPTEST_PARAMETERS" in way.prepare + way.command


def has_parameters(host: Host, words: tuple[str, ...]) -> bool:
    """Whether a command line has what a kernel that is booted there has, and no more of ours."""
    if not carries(host):
        return True
    wanted = set(parameters(host))
    # A boot loader may put words of its own after ours.
    return wanted.issubset(words) and (host.boot.how != "kexec" or wanted.issuperset(_ours(words)))


def _ours(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a boot of ours has put on a command line, less its token."""
    for number, word in enumerate(words):
        if word.startswith(f"{TOKEN}="):
            end = words.index("--") if "--" in words else len(words)
            return words[number + 1 : end]
    return ()


def leave(kernel: Kernel, host: Host, build: KernelBuild, installed: Installed, token: str) -> None:
    """Have the host leave the kernel that runs for the one that was installed.

    `token` is put on the command line.  Returns when the host is on its way, or gone.  BootError
    where a command fails.
    """
    way = host.boot
    values = {
        "KERNEL": installed.image,
        "INITRD": installed.initrd,
        "FOLDER": installed.folder,
        "RELEASE": build.release,
        "PARAMETERS": " ".join((*parameters(host), token)),
    }
    if way.prepare:
        _run(kernel, host, values, "prepare", way.prepare)
    if way.how == "one-shot":
        _run(kernel, host, values, "command", way.command)
        _go(kernel, host, ["sh", "-c", way.reboot], "boot.reboot")
        return
    _load(kernel, host, build, installed, token)
    # systemd unmounts file systems first; kexec -e jumps at once.
    words = "if [ -d /run/systemd/system ]; then systemctl kexec; else sync; kexec -e; fi"
    _go(kernel, host, ["sh", "-c", words], "kexec")


def _load(kernel: Kernel, host: Host, build: KernelBuild, installed: Installed, token: str) -> None:
    argv = ["kexec", "--load", installed.image]
    if command(kernel, ["test", "-e", installed.initrd]).status == 0:
        argv.append(f"--initrd={installed.initrd}")
    line = kernel.read_file("/proc/cmdline") or ""
    argv.append(f"--command-line={command_line(line, host, token)}")
    attempts = [command(kernel, argv)]
    if attempts[-1].status != 0:
        # A kernel that is locked down takes images by file only.
        attempts.append(command(kernel, [*argv, "--kexec-file-syscall"]))
    if attempts[-1].status != 0:
        why, hint = why_not_loaded(kernel, attempts)
        raise HostError(f"{host.name}: kexec does not load {build.name}: {why}", hint)


def command_line(before: str, host: Host, token: str) -> str:
    """Return the kernel's command line: the old one, without what is ours, with what is."""
    ours = (token, *parameters(host))
    names = {word.partition("=")[0] for word in ours}
    kernel, separator, arguments = before.strip().partition(" -- ")
    words = tuple(kernel.split())
    kept = [
        word
        for word in words[: len(words) - len(_ours(words))]
        if word not in ours
        and (word.partition("=")[0] not in names or word.startswith("console="))
        and not word.startswith("BOOT_IMAGE=")
    ]
    return " ".join([*kept, *ours]) + (f" -- {arguments}" if separator else "")


def _run(kernel: Kernel, host: Host, values: dict[str, str], key: str, line: str) -> None:
    words = [f"SNPTEST_{name}={value}" for name, value in values.items()]
    done = command(kernel, ["env", *words, "sh", "-c", line], PREPARE_TIMEOUT)
    if done.status != 0:
        # What the command prints is the host's, not a password of a power switch.
        raise HostError(f"{host.name}: boot.{key} fails: {said(done)}", "see ci/hosts.toml")


def _go(kernel: Kernel, host: Host, argv: list[str], what: str) -> None:
    try:
        done = command(kernel, argv, LEAVE_TIMEOUT)
    except TargetError:
        return  # gone, as it should be
    if done.status is not None and done.status > 0:
        raise BootError(f"{host.name}: {what} fails: {sanitize.line(said(done), 300)}")


def power_cycle(host: Host) -> str:
    """Switch a host off and on, where that is possible; say so."""
    if host.power_cycle is None:
        return ""
    try:
        done = subprocess.run(
            host.power_cycle,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=POWER_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"; power-cycle did not end in {POWER_TIMEOUT:.0f} s"
    # Neither the command nor what it prints: either may hold a password.
    if done.returncode:
        return f"; power-cycle failed with status {done.returncode}"
    return "; power-cycled"
