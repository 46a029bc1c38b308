# SPDX-License-Identifier: GPL-2.0-only
"""What a test may need (`@pytest.mark.needs`), and the one line that says it is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from harness.uapi import kvm as uapi

if TYPE_CHECKING:
    from harness.vm.host import Host


def _snp(host: Host) -> str | None:
    if host.has_snp:
        return None
    why = host.kernel.snp_hint
    if why is None:
        state = host.parameter("sev_snp")
        why = "kvm_amd has no parameter sev_snp" if state is None else f"kvm_amd.sev_snp={state}"
    return f"needs SEV-SNP, which this host lacks ({why})"


def _private_memory(host: Host) -> str | None:
    if host.has_private_memory:
        return None
    return "no VM type with private memory: kernel without CONFIG_KVM_SW_PROTECTED_VM or SNP"


def _sw_protected(host: Host) -> str | None:
    if uapi.KVM_X86_SW_PROTECTED_VM in host.vm_types:
        return None
    return "needs KVM_X86_SW_PROTECTED_VM: kernel without CONFIG_KVM_SW_PROTECTED_VM"


def _inspector(host: Host) -> str | None:
    if host.kernel.inspector is not None:
        return None
    return "the RMP cannot be looked at on this backend"


def _gmem_2m(host: Host) -> str | None:
    if host.kernel.gmem_order >= 9:
        return None
    return "this kernel's guest_memfd has pages of 4 KiB only"


def _machine_checks(host: Host) -> str | None:
    if host.machine_checks:
        return None
    return "this kernel handles no machine checks (CONFIG_X86_MCE, mce=off)"


def _kvm_starts_psp(host: Host) -> str | None:
    # Until 6.15 the driver initialises the PSP when it is loaded (sev_pci_init).
    if host.kernel.read_file("/sys/module/ccp/parameters/psp_init_on_probe") is None:
        return None
    return "the ccp driver of this kernel initialises SNP, whatever kvm_amd's parameters say"


FEATURES: dict[str, Callable[[Host], str | None]] = {
    "snp": _snp,
    "private_memory": _private_memory,
    "sw_protected": _sw_protected,
    "inspector": _inspector,
    "gmem_2m": _gmem_2m,
    "kvm_starts_psp": _kvm_starts_psp,
    "machine_checks": _machine_checks,
}
"""Feature by name, the weightiest first, and the function that says why a host lacks it."""


def lacks(name: str, host: Host) -> str | None:
    """Say in one line why a host, or its interface, lacks a feature; None where it has it.

    Names that are not in FEATURES are fields of harness.uapi.interfaces.Interface.
    """
    if name in FEATURES:
        return FEATURES[name](host)
    value = getattr(host.interface, name, None)
    if value is None and not hasattr(host.interface, name):
        raise LookupError(f"no feature is called {name!r}; there are {', '.join(FEATURES)}")
    return None if value else f"interface {host.interface.name} has no {name}"


def lacking(names: Iterable[str], host: Host) -> str | None:
    """Say in one line which of the needs is the weightiest that a host does not meet.

    What lacks SNP lacks much besides: all of it is skipped for that one reason.
    """
    order = list(FEATURES)
    ranked = sorted(set(names), key=lambda n: (order.index(n) if n in FEATURES else len(order), n))
    return next((reason for name in ranked if (reason := lacks(name, host))), None)
