# SPDX-License-Identifier: GPL-2.0-only
"""Finds out which revision of the SNP interfaces a running kernel speaks."""

from __future__ import annotations

from harness.kernel import Kernel
from harness.uapi import kvm, sev
from harness.uapi.revisions import MERGED, PROBE_COMMANDS, Revision, identify


def probe(kernel: Kernel) -> Revision:
    """Ask a fresh VM of the default type; `merged` where the kernel has no SNP to speak of.

    What needs SNP is skipped on such a kernel; what does not is the same in every revision.
    """
    device = kernel.open("/dev/kvm")
    created = kernel.ioctl(device, kvm.KVM_CREATE_VM, kvm.KVM_X86_DEFAULT_VM)
    if not created.ok:
        kernel.close(device)
        return MERGED
    answers = {}
    for command in PROBE_COMMANDS:
        request = bytes(sev.kvm_sev_cmd(id=command))
        answers[command] = kernel.ioctl(created.value, kvm.KVM_MEMORY_ENCRYPT_OP, request).errno
    kernel.close(created.value)
    kernel.close(device)
    return identify(answers) or MERGED
