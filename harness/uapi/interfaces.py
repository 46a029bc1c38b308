# SPDX-License-Identifier: GPL-2.0-only
"""What differs between versions of the SNP host interfaces, as data.

v12 is the 29-patch series of 29 March 2024, read from its patches; merged is what Linux 6.11
first shipped, read from arch/x86/kvm/svm/sev.c, 6.12; 7.3 is what Linux 7.3 has, read from the
same file.  SINCE says which release brought which of the differences between the last two.  A
test or a model asks the interface; it never compares names.
"""

from __future__ import annotations

import ctypes
import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from harness.uapi import ghcb, kvm, sev


class VmsaOrder(Enum):
    """The order in which LAUNCH_FINISH measures the vCPUs' VMSAs."""

    BOOT_FIRST = "vcpu_id 0 first, then by index"
    INDEX = "by index, the order in which vCPUs were created"


class PscExit(Enum):
    """How a page state change reaches userspace."""

    VMGEXIT = "KVM_EXIT_VMGEXIT; userspace walks the request itself"
    HYPERCALL = "KVM_EXIT_HYPERCALL with KVM_HC_MAP_GPA_RANGE, once for each run of entries"


class ExtGuestRequest(Enum):
    """Who supplies the certificates of an extended guest request."""

    VMGEXIT = "userspace, asked by KVM_EXIT_VMGEXIT"
    EMPTY_TABLE = "nobody: KVM writes 24 zero bytes, the end of an empty table"


class GuestRequestFailure(Enum):
    """Who learns that the hypervisor could not carry out a guest request."""

    GUEST = "the guest, by SNP_GUEST_VMM_ERR_GENERIC"
    USERSPACE = "userspace: KVM_RUN fails with EIO"


@dataclass(frozen=True, slots=True)
class SevCommand:
    """A command of KVM_MEMORY_ENCRYPT_OP and the structure it takes."""

    id: int
    struct: type[ctypes.Structure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What KVM, the PSP driver, userspace and guest say to each other, as one version of it is."""

    name: str
    title: str
    kernels: str
    """Where it is found."""
    release: str
    """A release that has it: what the emulator calls itself."""

    launch_start: SevCommand
    launch_update: SevCommand
    launch_finish: SevCommand

    launch_flags: bool
    """The launch structures have `flags`, which must be zero (EINVAL)."""

    # LAUNCH_START
    policy_required: int
    """Policy bits that must be set (EINVAL)."""
    policy_refused: int
    """Policy bits that must be clear (EINVAL)."""
    policy_valid: int | None
    """Bits that may be set at all (EINVAL), None where KVM leaves that to the firmware."""
    policy_checked_first: bool
    """Refused before a guest context exists; if not, the refused start leaves one behind, and
    every later start is EINVAL, too."""
    policy_bits_attribute: tuple[int, int] | None
    """Group and attribute of /dev/kvm that tell which policy bits may be set (since 6.19)."""

    # LAUNCH_UPDATE
    update_any_source: bool
    """The source may lie anywhere, and the range may be empty; else, since 7.0, an address that
    is 0 or not aligned to 4 KiB, or a length of 0, is EINVAL."""
    update_assigned_errno: int
    """Errno for a first page that the RMP already assigns to a guest.

    0 is no error, and nothing is done to the page: v12 breaks off its loop without one.  For
    page types with content it comes not so far on hardware: its copy into the assigned page
    faults, and the ioctl's value is the positive number of bytes that were not copied.
    """
    update_errno: int | None
    """Errno whatever the cause (6.12 has one for all), None where the cause's own comes back."""
    update_not_private_errno: int
    """Errno for a page without KVM_MEMORY_ATTRIBUTE_PRIVATE."""
    update_firmware_errno: int
    """Errno when the firmware refuses; the reason is in kvm_sev_cmd.error."""
    update_writes_progress: bool
    """gfn_start, uaddr and len come back advanced past what was done; an error behind the first
    page then is success, with the rest left for the next call."""
    update_locks_file: bool
    """No hole is punched into the range while its pages are loaded; since 7.0 only the page that
    is being loaded is safe (kvm_gmem_populate)."""

    # LAUNCH_FINISH
    vmsa_order: VmsaOrder
    finish_key_field: str
    """Field of the structure that becomes VCEK_DIS of the firmware's command."""
    finish_locks_vcpus: bool
    """No vCPU's registers change while they are measured (CVE-2026-31591, fixed in 7.1)."""

    # Guest events
    psc_exit: PscExit
    psc_results: frozenset[int] | None
    """What userspace may answer to a page state change; other values have had KVM_RUN fail with
    EINVAL since 7.1.  None: any value, where all but 0 are an error to the guest."""
    unregistered_ghcb: int | None
    """Reason (GHCB_ERR_*) for an event with a page that is not registered; None: KVM_RUN fails
    with EINVAL."""
    ap_features_exact: bool
    """AP creation wants exactly the VM's features in RAX (since 6.15); else only the modes of
    interrupt injection must be the VM's."""
    ap_creation_error_stops_target: bool
    """A refused AP creation request still takes the target vCPU's VMSA away."""
    guest_request_failure: GuestRequestFailure
    guest_request_generic: int
    """The VMM error of a request that failed otherwise than by length or busy; 0: none."""
    guest_request_bad_address: int | None
    """Reason (GHCB_ERR_*) for GPAs that are unaligned or equal; None: a request that failed."""
    ext_guest_request: ExtGuestRequest
    request_certificates: bool
    """KVM_SEV_SNP_ENABLE_REQ_CERTS has extended requests for a report leave with
    KVM_EXIT_SNP_REQ_CERTS (since 7.0)."""
    end_flushes_caches: bool
    """The end of a VM executes WBINVD; since 6.17 only the reuse of its ASID does."""
    gmem_bound_errnos: tuple[int, ...]
    """Errors with which a range of a guest_memfd that a slot has is refused to another slot.

    kvm_gmem_bind() said EINVAL up to 6.12 and says EEXIST by 7.3; which release changed it is
    not known, so that kernels between the two may say either.  The model says the first.
    """
    stale_request_sent: bool
    """An extended request whose transaction went stale reaches the firmware all the same: the
    guest is told BUSY, but its sequence number is used up (found in v12's review)."""

    # The rest of KVM and /dev/sev
    protected_readonly_slots: bool
    """VMs with protected state may have KVM_MEM_READONLY slots, which Linux 6.11 took away."""
    legacy_command_errno: int | None
    """Errno of SEV and SEV-ES commands on an initialised SNP guest, None where KVM lets them on."""
    init2_ghcb_version: bool
    """KVM_SEV_INIT2 takes ghcb_version."""
    ghcb_version_1: bool
    """An SNP guest may be offered version 1 of the GHCB protocol; since 6.18 that is EINVAL."""
    vmsa_features_attribute: tuple[int, int]
    """Group and attribute of /dev/kvm that tell the valid vmsa_features."""
    pre_fault_memory: bool
    """KVM_PRE_FAULT_MEMORY exists; for SNP it needs a finished launch."""
    pause_attestation: bool
    """/dev/sev has SNP_PAUSE_ATTESTATION and SNP_RESUME_ATTESTATION."""

    probe: tuple[tuple[int, int], ...]
    """Errno by command id, as a VM of any type answers before KVM_SEV_INIT2 (see identify)."""

    @property
    def finish_has_vlek_required(self) -> bool:
        """Whether LAUNCH_FINISH has `vlek_required`."""
        return self.finish_key_field == "vlek_required"

    @property
    def finish_has_vcek_disabled(self) -> bool:
        """Whether LAUNCH_FINISH has `vcek_disabled`."""
        return self.finish_key_field == "vcek_disabled"

    @property
    def userspace_certificates(self) -> bool:
        """Whether userspace supplies the certificates of an extended guest request."""
        return self.ext_guest_request is ExtGuestRequest.VMGEXIT

    @property
    def empty_certificate_table(self) -> bool:
        """Whether the certificates of an extended guest request are KVM's empty table."""
        return self.ext_guest_request is ExtGuestRequest.EMPTY_TABLE

    @property
    def closed_psc_results(self) -> bool:
        """Whether only some answers of userspace to page state changes are known."""
        return self.psc_results is not None

    @property
    def psc_needs_exit_hypercall(self) -> bool:
        """Whether page state changes fail unless KVM_CAP_EXIT_HYPERCALL was enabled."""
        return self.psc_exit is PscExit.HYPERCALL

    @property
    def kernel_walks_psc_lists(self) -> bool:
        """Whether KVM works off lists of page state changes, and asks userspace for ranges."""
        return self.psc_exit is PscExit.HYPERCALL

    @property
    def userspace_walks_psc_lists(self) -> bool:
        """Whether lists of page state changes go to userspace as they are."""
        return self.psc_exit is PscExit.VMGEXIT

    def __str__(self) -> str:
        return self.name


V12 = Interface(
    name="v12",
    title="[PATCH v12 00/29] Add AMD Secure Nested Paging (SEV-SNP) Hypervisor Support",
    kernels="AMDESE/linux snp-host-v12 (6.8, kvm-coco-queue of March 2024)",
    release="6.8.0",
    launch_start=SevCommand(sev.KVM_SEV_SNP_LAUNCH_START_v12, sev.kvm_sev_snp_launch_start_v12),
    launch_update=SevCommand(sev.KVM_SEV_SNP_LAUNCH_UPDATE_v12, sev.kvm_sev_snp_launch_update_v12),
    launch_finish=SevCommand(sev.KVM_SEV_SNP_LAUNCH_FINISH_v12, sev.kvm_sev_snp_launch_finish_v12),
    launch_flags=False,
    policy_required=sev.SNP_POLICY_MASK_SMT,
    policy_refused=sev.SNP_POLICY_MASK_SINGLE_SOCKET,
    policy_valid=None,
    policy_checked_first=False,
    policy_bits_attribute=None,
    update_any_source=True,
    update_assigned_errno=0,
    update_errno=None,
    update_not_private_errno=errno.EINVAL,
    update_firmware_errno=errno.EIO,
    update_writes_progress=False,
    update_locks_file=True,
    vmsa_order=VmsaOrder.BOOT_FIRST,
    finish_key_field="vlek_required",
    finish_locks_vcpus=False,
    psc_exit=PscExit.VMGEXIT,
    psc_results=None,
    unregistered_ghcb=None,
    ap_features_exact=False,
    ap_creation_error_stops_target=True,
    guest_request_failure=GuestRequestFailure.GUEST,
    guest_request_generic=1 << 31,
    guest_request_bad_address=None,
    ext_guest_request=ExtGuestRequest.VMGEXIT,
    request_certificates=False,
    end_flushes_caches=True,
    gmem_bound_errnos=(errno.EINVAL,),
    stale_request_sent=True,
    legacy_command_errno=None,
    init2_ghcb_version=False,
    ghcb_version_1=False,
    vmsa_features_attribute=(0, 1),
    protected_readonly_slots=True,
    pre_fault_memory=False,
    pause_attestation=True,
    probe=(
        (sev.KVM_SEV_SNP_LAUNCH_START_v12, errno.ENOTTY),
        (sev.KVM_SEV_SNP_LAUNCH_START, errno.EINVAL),
    ),
)

MERGED = Interface(
    name="merged",
    title="AMD SEV-SNP host support as merged for Linux 6.11",
    kernels="Linux 6.11 to 6.14; later ones with what SINCE says",
    release="6.12.0",
    launch_start=SevCommand(sev.KVM_SEV_SNP_LAUNCH_START, sev.kvm_sev_snp_launch_start),
    launch_update=SevCommand(sev.KVM_SEV_SNP_LAUNCH_UPDATE, sev.kvm_sev_snp_launch_update),
    launch_finish=SevCommand(sev.KVM_SEV_SNP_LAUNCH_FINISH, sev.kvm_sev_snp_launch_finish),
    launch_flags=True,
    policy_required=sev.SNP_POLICY_MASK_SMT | sev.SNP_POLICY_MASK_RSVD_MBO,
    policy_refused=sev.SNP_POLICY_MASK_SINGLE_SOCKET,
    policy_valid=sev.SNP_POLICY_MASK_VALID,
    policy_checked_first=True,
    policy_bits_attribute=None,
    update_any_source=True,
    update_assigned_errno=errno.EIO,
    update_errno=errno.EIO,
    update_not_private_errno=errno.EIO,
    update_firmware_errno=errno.EIO,
    update_writes_progress=True,
    update_locks_file=True,
    vmsa_order=VmsaOrder.INDEX,
    finish_key_field="vcek_disabled",
    finish_locks_vcpus=False,
    psc_exit=PscExit.HYPERCALL,
    psc_results=None,
    unregistered_ghcb=None,
    ap_features_exact=False,
    ap_creation_error_stops_target=False,
    guest_request_failure=GuestRequestFailure.USERSPACE,
    guest_request_generic=0,
    guest_request_bad_address=ghcb.GHCB_ERR_MISSING_INPUT,
    ext_guest_request=ExtGuestRequest.EMPTY_TABLE,
    request_certificates=False,
    end_flushes_caches=True,
    gmem_bound_errnos=(errno.EINVAL, errno.EEXIST),
    stale_request_sent=False,
    legacy_command_errno=errno.EPERM,
    init2_ghcb_version=True,
    ghcb_version_1=True,
    vmsa_features_attribute=(kvm.KVM_X86_GRP_SEV, kvm.KVM_X86_SEV_VMSA_FEATURES),
    protected_readonly_slots=False,
    pre_fault_memory=True,
    pause_attestation=False,
    probe=(
        (sev.KVM_SEV_SNP_LAUNCH_START_v12, errno.EINVAL),
        (sev.KVM_SEV_SNP_LAUNCH_START, errno.ENOTTY),
    ),
)

LINUX_7_3 = replace(
    MERGED,
    name="7.3",
    title="AMD SEV-SNP host support of Linux 7.3",
    kernels="Linux 7.3",
    release="7.3.0",
    policy_required=sev.SNP_POLICY_MASK_RSVD_MBO,
    policy_refused=0,
    policy_bits_attribute=(kvm.KVM_X86_GRP_SEV, kvm.KVM_X86_SNP_POLICY_BITS),
    update_any_source=False,
    update_locks_file=False,
    finish_locks_vcpus=True,
    psc_results=frozenset((0, errno.EINVAL, errno.EAGAIN)),
    unregistered_ghcb=ghcb.GHCB_ERR_NOT_REGISTERED,
    ap_features_exact=True,
    guest_request_bad_address=ghcb.GHCB_ERR_INVALID_INPUT,
    request_certificates=True,
    end_flushes_caches=False,
    gmem_bound_errnos=(errno.EEXIST,),
    ghcb_version_1=False,
)

SINCE: Mapping[tuple[int, int], tuple[str, ...]] = {
    (6, 15): ("ap_features_exact",),
    (6, 17): ("policy_required", "policy_refused", "end_flushes_caches"),
    (6, 18): ("ghcb_version_1",),
    (6, 19): ("policy_bits_attribute",),
    (7, 0): ("update_any_source", "update_locks_file", "request_certificates"),
    (7, 1): ("psc_results", "finish_locks_vcpus"),
    (7, 2): ("unregistered_ghcb", "guest_request_bad_address"),
    (7, 3): ("gmem_bound_errnos",),
}
"""Fields of LINUX_7_3 that differ from MERGED's, by the release that brought them: the pull
requests of KVM x86 for 6.15 (AP creation), 6.17 (policy) and 7.0 (certificates), the merge
windows that followed the other patches.  What is fixed there can come earlier to stable kernels.
"""

INTERFACES: Mapping[str, Interface] = {each.name: each for each in (V12, MERGED, LINUX_7_3)}

PROBE_COMMANDS = tuple(command for command, _ in MERGED.probe)
"""Commands to send with KVM_MEMORY_ENCRYPT_OP to a fresh VM, `data` 0, to tell interfaces apart."""


def identify(answers: Mapping[int, int]) -> Interface | None:
    """Tell the interface from the errno that each of PROBE_COMMANDS gave.

    sev_mem_enc_ioctl() sends an id it does not know to EINVAL; one it knows reaches
    snp_launch_start(), which answers ENOTTY before it reads anything, since the VM is not an SNP
    guest before KVM_SEV_INIT2.  With SEV off both are ENOTTY, and a kernel without SNP says
    EINVAL to both: then the answer is None.
    """
    for interface in (V12, MERGED):
        if all(answers.get(command) == wanted for command, wanted in interface.probe):
            return interface
    return None


def of_release(release: str, certificates: bool) -> Interface:
    """The interface of a kernel that answers as MERGED, by `uname -r` and what it has.

    `certificates` is whether /dev/kvm has KVM_X86_SEV_SNP_REQ_CERTS.  That is asked, for a series
    may bring it to any release; what nobody can ask is told by the release.  Between 6.14 and 7.3
    the name is that of the release.
    """
    found = re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    names = {name for since, names in SINCE.items() if version >= since for name in names}
    names.discard("request_certificates")
    if certificates:
        names.add("request_certificates")
    every = {name for names in SINCE.values() for name in names}
    if not names or names == every:
        return LINUX_7_3 if names else MERGED
    changes = {name: getattr(LINUX_7_3, name) for name in names}
    label = f"{version[0]}.{version[1]}"
    title = f"AMD SEV-SNP host support of Linux {label}"
    return replace(MERGED, name=label, title=title, release=f"{label}.0", **changes)
