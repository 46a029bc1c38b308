# SPDX-License-Identifier: GPL-2.0-only
"""Finds out which of the SNP interfaces a running kernel speaks."""

from __future__ import annotations

from harness.kernel import Kernel
from harness.uapi import kvm, sev
from harness.uapi.interfaces import MERGED, PROBE_COMMANDS, Interface, identify, of_release

RELEASE = "/proc/sys/kernel/osrelease"


def probe(kernel: Kernel) -> Interface:
    """Ask a fresh VM of the default type; `merged` where the kernel has no SNP to speak of.

    What needs SNP is skipped on such a kernel; what does not is the same in every interface.  What
    came after Linux 6.11 is told by an attribute of /dev/kvm and by the release.
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
    attribute = kvm.kvm_device_attr(group=kvm.KVM_X86_GRP_SEV, attr=kvm.KVM_X86_SEV_SNP_REQ_CERTS)
    has_certificates = kernel.ioctl(device, kvm.KVM_HAS_DEVICE_ATTR, bytes(attribute)).ok
    kernel.close(created.value)
    kernel.close(device)
    interface = identify(answers) or MERGED
    if interface is not MERGED:
        return interface
    return of_release(kernel.read_file(RELEASE) or "", has_certificates)
