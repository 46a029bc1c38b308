# SPDX-License-Identifier: GPL-2.0-only
"""This machine's own /dev/kvm and /dev/sev.

The agent runs as a process of its own: a KVM that hangs or kills takes the agent with it,
and the test process only sees a lost target.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from harness import agent
from harness.backends.base import Backend, Unconfigurable
from harness.errors import UserError
from harness.hostcpu import why_not_x86_64
from harness.kernel import Kernel
from harness.target import Target
from harness.wire import RemoteKernel

KVM = Path("/dev/kvm")
SEV = Path("/dev/sev")
SNP_PARAMETER = Path("/sys/module/kvm_amd/parameters/sev_snp")


def start_agent(name: str, program: Path = Path(agent.__file__)) -> RemoteKernel:
    """Run the agent (or a program that becomes it) on this machine and connect to it."""
    process = subprocess.Popen(
        [sys.executable, "-I", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    # Popen's file objects own their descriptors; ours live as long as the connection.
    writer, reader = os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno())
    process.stdin.close()
    process.stdout.close()

    def reap() -> None:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)

    def how_it_ended() -> str:
        code = process.poll()
        return f"agent process {process.pid}, exit status {code}" if code is not None else ""

    kernel = RemoteKernel(name, reader, writer, last_seen=how_it_ended, on_close=reap)
    kernel.pid = process.pid
    return kernel


def why_no_kvm() -> str | None:
    """Say in one line why /dev/kvm cannot be used here, None where it can."""
    if reason := why_not_x86_64("backend local"):
        return reason
    if not KVM.exists():
        return "/dev/kvm is missing: load kvm_amd, or enable SVM in the BIOS"
    if not os.access(KVM, os.R_OK | os.W_OK):
        return "no permission to use /dev/kvm: add yourself to the group kvm and log in again"
    return None


def why_not_snp() -> str | None:
    """Say in one line why SNP VMs cannot be made here, None where nothing speaks against it."""
    reason = why_no_kvm()
    if reason:
        return reason
    if "AuthenticAMD" not in _read(Path("/proc/cpuinfo")):
        return "not an AMD CPU: SEV-SNP needs an EPYC of the third generation or later"
    if not SNP_PARAMETER.exists():
        return "kvm_amd is not loaded or knows no SNP: boot a kernel with the SNP host patches"
    if _read(SNP_PARAMETER).strip() not in ("Y", "1"):
        return "kvm_amd has SNP disabled: see dmesg for why (BIOS: SNP and RMP coverage; IOMMU on)"
    if not SEV.exists():
        return "/dev/sev is missing: load ccp, and check dmesg for the PSP firmware's state"
    if not os.access(SEV, os.R_OK | os.W_OK):
        return "no permission to use /dev/sev: run as root, or give your group access to it"
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


class LocalBackend(Backend):
    """Drives the kernel that runs on this machine."""

    name: ClassVar[str] = "local"

    def open(self, target: Target, parameters: Mapping[str, Any] | None = None) -> Kernel:
        """Start an agent here; the running kernel decides the interface."""
        if parameters is not None:
            raise Unconfigurable("this machine's own kernel is taken as it runs")
        reason = self.unavailable()
        if reason:
            raise UserError(reason)
        kernel = start_agent("local")
        kernel.snp_hint = why_not_snp()
        kernel.release = os.uname().release
        if kernel.snp_hint is None:
            kernel.environment = frozenset({"snp"})
        return kernel

    def unavailable(self) -> str | None:
        """Only /dev/kvm is a must: what needs SNP skips with the reason of why_not_snp()."""
        return why_no_kvm()
