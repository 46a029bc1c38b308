# SPDX-License-Identifier: GPL-2.0-only
"""What a test may need (`@pytest.mark.needs`), and the one line that says it is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.vm.host import Host


def _snp(host: Host) -> str | None:
    if host.has_snp:
        return None
    if host.kernel.snp_hint is not None:
        return host.kernel.snp_hint
    state = host.parameter("sev_snp")
    if state is None:
        return "this kernel's kvm_amd has no SNP support (no parameter sev_snp)"
    return f"kvm_amd offers no KVM_X86_SNP_VM (parameter sev_snp={state})"


def _private_memory(host: Host) -> str | None:
    if host.has_private_memory:
        return None
    return "no VM type with private memory: kernel without CONFIG_KVM_SW_PROTECTED_VM or SNP"


def _inspector(host: Host) -> str | None:
    if host.kernel.inspector is not None:
        return None
    return "the RMP cannot be looked at on this backend"


def _gmem_2m(host: Host) -> str | None:
    if host.kernel.gmem_order >= 9:
        return None
    return "this kernel's guest_memfd has pages of 4 KiB only"


FEATURES: dict[str, Callable[[Host], str | None]] = {
    "snp": _snp,
    "private_memory": _private_memory,
    "inspector": _inspector,
    "gmem_2m": _gmem_2m,
}
"""Feature by name, and the function that says why a host lacks it."""


def lacks(name: str, host: Host) -> str | None:
    """Say in one line why a host, or its revision, lacks a feature; None where it has it.

    Names that are not in FEATURES are fields of harness.uapi.revisions.Revision.
    """
    if name in FEATURES:
        return FEATURES[name](host)
    value = getattr(host.revision, name, None)
    if value is None and not hasattr(host.revision, name):
        raise LookupError(f"no feature is called {name!r}; there are {', '.join(FEATURES)}")
    return None if value else f"revision {host.revision.name} has no {name}"
