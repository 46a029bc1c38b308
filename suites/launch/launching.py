# SPDX-License-Identifier: GPL-2.0-only
"""The steps of a launch, each as one command whose failure is a value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from harness.kernel import Kernel
from harness.operations import Ioctl, Result
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.vm import boot, layout
from harness.vm.attestation import Report
from harness.vm.gmem import GuestMemfd
from harness.vm.guest import Guest
from harness.vm.guest_message import Messenger
from harness.vm.host import Host
from harness.vm.id_block import OwnerKey, id_auth, id_block, owner_key
from harness.vm.results import OK, CallResult, SevResult, attempt
from harness.vm.system import System
from harness.vm.vm import DEFAULT_POLICY, Vm, fill

PAGE: Final = layout.PAGE_SIZE
BASE: Final = 0x100000
"""GPA of the private memory that `add_private` gives a VM."""
PAGES: Final = 16

NORMAL: Final = sevapi.KVM_SEV_SNP_PAGE_TYPE_NORMAL
ZERO: Final = sevapi.KVM_SEV_SNP_PAGE_TYPE_ZERO
UNMEASURED: Final = sevapi.KVM_SEV_SNP_PAGE_TYPE_UNMEASURED
SECRETS: Final = sevapi.KVM_SEV_SNP_PAGE_TYPE_SECRETS
CPUID: Final = sevapi.KVM_SEV_SNP_PAGE_TYPE_CPUID
PAGE_TYPES: Final = {
    "normal": NORMAL,
    "zero": ZERO,
    "unmeasured": UNMEASURED,
    "secrets": SECRETS,
    "cpuid": CPUID,
}

# -- commands ------------------------------------------------------------------------------


def init2(vm: Vm, **fields: int) -> CallResult:
    """KVM_SEV_INIT2."""
    return vm.sev_call(sevapi.KVM_SEV_INIT2, sevapi.kvm_sev_init(**fields)).outcome


def start(
    vm: Vm, policy: int = DEFAULT_POLICY, *, sev_fd: int | None = None, **fields: Any
) -> CallResult:
    """KVM_SEV_SNP_LAUNCH_START."""
    command = vm.interface.launch_start
    struct = fill(command.struct, policy=policy, **fields)
    return vm.sev_call(command.id, struct, sev_fd=sev_fd).outcome


def update_once(
    vm: Vm,
    gpa: int = BASE,
    type: int = NORMAL,
    *,
    data: bytes = bytes(PAGE),
    source: int | None = None,
    length: int | None = None,
    sev_fd: int | None = None,
    **fields: Any,
) -> SevResult:
    """One KVM_SEV_SNP_LAUNCH_UPDATE, and its structure as KVM left it.

    data: content, staged in the target's memory; or `source`: its address there.
    """
    at = vm.stage(data) if source is None else source
    struct = vm.update_struct(gpa, at, len(data) if length is None else length, type, **fields)
    return vm.sev_call(vm.interface.launch_update.id, struct, sev_fd=sev_fd)


def update(vm: Vm, gpa: int = BASE, type: int = NORMAL, **more: Any) -> CallResult:
    """What came of one KVM_SEV_SNP_LAUNCH_UPDATE."""
    return update_once(vm, gpa, type, **more).outcome


def finish(vm: Vm, **fields: Any) -> CallResult:
    """KVM_SEV_SNP_LAUNCH_FINISH."""
    return attempt("KVM_SEV_SNP_LAUNCH_FINISH", vm.launch_finish, **fields)


def raw_finish(vm: Vm, **fields: Any) -> CallResult:
    """KVM_SEV_SNP_LAUNCH_FINISH with the structure's own fields only, addresses and all."""
    command = vm.interface.launch_finish
    return vm.sev_call(command.id, fill(command.struct, **fields)).outcome


def command_at(vm: Vm, command: int, address: int) -> CallResult:
    """A SEV command whose structure is said to lie at an address of the target."""
    request = sevapi.kvm_sev_cmd(id=command, data=address, sev_fd=vm.host.sev.fd)
    result = vm.kernel.ioctl(vm.fd, uapi.KVM_MEMORY_ENCRYPT_OP, bytes(request))
    fw_error = sevapi.kvm_sev_cmd.from_buffer_copy(result.data).error
    return CallResult(result.errno, fw_error, sevapi.COMMAND_NAMES[command])


# -- VMs -----------------------------------------------------------------------------------


def add_private(vm: Vm, pages: int = PAGES, *, slot: int = 0, gpa: int = BASE) -> GuestMemfd:
    """Give a VM a slot of private memory."""
    gmem = vm.create_gmem(pages * PAGE)
    vm.add_slot(slot, gpa, pages * PAGE, gmem=gmem)
    vm.set_memory_attributes(gpa, pages * PAGE, private=True)
    return gmem


def launch_guest(
    host: Host,
    *,
    vcpus: int = 1,
    extra: Iterable[boot.LaunchPages] = (),
    start: dict[str, Any] | None = None,
    finish: dict[str, Any] | None = None,
    **init2: int,
) -> Guest:
    """A test guest with more pages than its image's, or other fields of the commands."""
    vm = host.create_vm(uapi.KVM_X86_SNP_VM)
    try:
        guest = Guest.of(vm, max_vcpus=vcpus)
        guest.vmsa_features = init2.get("vmsa_features", 0)
        vm.sev_init2(**init2)
        guest.add_memory()
        for _ in range(vcpus):
            guest.add_vcpu()
        vm.launch_start(**(start or {}))
        guest.load()
        for part in extra:
            vm.launch_update(part.gpa, part.data, part.type)
            guest.pages.append(part)
        vm.launch_finish(**(finish or {}))
    except BaseException:
        vm.close()
        raise
    return guest


def report_of(guest: Guest, data: bytes = b"") -> Report:
    """The attestation report that the running guest gets."""
    return Report.decode(Messenger(guest.cpu()).report(data))


def id_fields(
    digest: bytes,
    policy: int = DEFAULT_POLICY,
    *,
    key: OwnerKey | None = None,
    author: OwnerKey | None = None,
    **block_fields: Any,
) -> dict[str, Any]:
    """Fields of LAUNCH_FINISH that present a signed ID block."""
    block = id_block(digest, policy, **block_fields)
    auth = id_auth(block, key or owner_key("owner"), author)
    return {
        "id_block_en": 1,
        "auth_key_en": int(author is not None),
        "id_block": bytes(block),
        "id_auth": bytes(auth),
    }


def assert_measured(vm: Vm, digest: bytes) -> None:
    """Finish the launch; the firmware must have arrived at `digest`.

    The firmware compares it with that of a signed ID block, so nothing needs to run.
    """
    assert finish(vm, **id_fields(digest)) == OK, "the firmware measured another digest"


def vcpu_ioctl(kernel: Kernel, fd: int, request: int, arg: Any = b"") -> Result:
    """An ioctl of a vCPU with a structure."""
    op = Ioctl(fd, request, bytes(arg))
    return kernel.call(op)


def supported_features(host: System) -> int:
    """The vmsa_features that /dev/kvm says INIT2 takes."""
    return device_attribute(host, *host.interface.vmsa_features_attribute)


def policy_bits(host: System) -> int:
    """The policy bits that KVM lets through, asked of /dev/kvm where it tells them."""
    if host.interface.policy_bits_attribute is not None:
        return device_attribute(host, *host.interface.policy_bits_attribute)
    assert host.interface.policy_valid is not None, "this interface leaves it to the firmware"
    return host.interface.policy_valid


def device_attribute(host: System, group: int, attribute: int) -> int:
    """The value of an attribute of /dev/kvm."""
    address = host.kernel.mmap(4096)
    try:
        request = uapi.kvm_device_attr(group=group, attr=attribute, addr=address)
        result = host.kernel.ioctl(host.fd, uapi.KVM_GET_DEVICE_ATTR, bytes(request))
        assert result.ok, "KVM_GET_DEVICE_ATTR: no such attribute"
        return int.from_bytes(host.kernel.read(address, 8), "little")
    finally:
        host.kernel.munmap(address, 4096)
