# SPDX-License-Identifier: GPL-2.0-only
"""The parameters of kvm_amd: what is switched off is not offered, and nothing breaks.

Tests with the same parameters stand together: a real kernel is booted once for them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from harness.operations import Open
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.vm import layout
from harness.vm.errors import KvmIoctlError
from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.results import OK, failed
from suites.launch.launching import init2, launch_guest, start

pytestmark = [
    pytest.mark.patches(25),
    pytest.mark.areas("launch", "module parameters"),
    pytest.mark.needs("snp"),
]

ENCRYPTED = (uapi.KVM_X86_SEV_VM, uapi.KVM_X86_SEV_ES_VM, uapi.KVM_X86_SNP_VM)


def offered(host: Host) -> list[int]:
    """Encrypted VM types that can be created; KVM_CAP_VM_TYPES must say the same."""
    made = []
    for type in ENCRYPTED:
        try:
            host.create_vm(type).close()
            made.append(type)
        except KvmIoctlError as error:
            refusal = error.errno
            if refusal != errno.EINVAL:
                raise
    assert made == [type for type in ENCRYPTED if type in host.vm_types]
    return made


def test_snp_on(host: Host) -> None:
    """Where SNP VMs can be made, the parameter sev_snp says so."""
    assert host.parameter("sev_snp") in ("Y", "1")
    assert host.parameter("sev_es") in ("Y", "1")
    assert host.parameter("sev") in ("Y", "1")


def test_snp_off(boot: Callable[..., Host]) -> None:
    """With sev_snp off there are SEV and SEV-ES VMs but no SNP VM."""
    host = boot(sev_snp=False)
    assert host.parameter("sev_snp") == "N"
    assert offered(host) == [uapi.KVM_X86_SEV_VM, uapi.KVM_X86_SEV_ES_VM]


def test_sev_es_guests_without_snp(boot: Callable[..., Host]) -> None:
    """SEV-ES VMs initialise with SNP off, and the SNP commands are refused on them."""
    host = boot(sev_snp=False)
    with host.create_vm(uapi.KVM_X86_SEV_ES_VM) as vm:
        assert init2(vm) == OK
        assert start(vm) == failed(errno.ENOTTY)


def test_platform_status_without_snp(boot: Callable[..., Host]) -> None:
    """The platform's status can be asked for in every state; no guest is counted with SNP off."""
    sev = boot(sev_snp=False).sev
    assert sev.platform_status().guest_count == 0
    status = sev.call(sevapi.SEV_PLATFORM_STATUS, bytes(sevapi.sev_user_data_status()))
    assert status.errno == 0
    assert sevapi.sev_user_data_status.from_bytes(status.data).api_major >= 1


def test_private_memory_without_snp(boot: Callable[..., Host]) -> None:
    """With SNP off the other VM types go on working."""
    host = boot(sev_snp=False)
    with Guest.launch(host, vm_type=uapi.KVM_X86_DEFAULT_VM) as guest:
        guest.cpu().boot()
        guest.cpu().store(layout.FREE_GPA, 7, private=False).check()
        assert guest.vm.read_gpa(layout.FREE_GPA, 1) == b"\7"


def test_sev_es_off(boot: Callable[..., Host]) -> None:
    """With sev_es off there are neither SEV-ES nor SNP VMs."""
    host = boot(sev_es=False)
    assert host.parameter("sev_snp") == "N"
    assert host.parameter("sev_es") == "N"
    assert offered(host) == [uapi.KVM_X86_SEV_VM]


def test_old_initialisation_without_sev_es(boot: Callable[..., Host]) -> None:
    """With sev_es off KVM_SEV_ES_INIT is ENOTTY while KVM_SEV_INIT works."""
    host = boot(sev_es=False)
    with host.create_vm(uapi.KVM_X86_DEFAULT_VM) as vm:
        assert vm.sev_call(sevapi.KVM_SEV_ES_INIT).errno == errno.ENOTTY
        assert vm.sev_call(sevapi.KVM_SEV_INIT).errno == 0


def test_sev_off(boot: Callable[..., Host]) -> None:
    """With sev off there is no encrypted VM type and no SEV command."""
    host = boot(sev=False)
    assert host.parameter("sev_snp") == "N"
    assert host.parameter("sev") == "N"
    assert offered(host) == []
    with host.create_vm(uapi.KVM_X86_DEFAULT_VM) as vm:
        request = bytes(sevapi.kvm_sev_cmd(id=sevapi.KVM_SEV_INIT))
        for arg in (0, request):
            result = vm.kernel.ioctl(vm.fd, uapi.KVM_MEMORY_ENCRYPT_OP, arg)
            assert result.errno == errno.ENOTTY


@pytest.mark.needs("kvm_starts_psp")
def test_no_device_without_sev(boot: Callable[..., Host]) -> None:
    """With sev off there is no /dev/sev to open."""
    host = boot(sev=False)
    assert host.kernel.call(Open("/dev/sev")).errno == errno.ENOENT


@pytest.mark.parametrize("order", [0, 9])
def test_launch_with_any_folio_size(boot: Callable[..., Host], order: int) -> None:
    """A guest launches and runs whether guest_memfd hands out 4 KiB or 2 MiB folios."""
    host = boot(gmem_max_order=order)
    with launch_guest(host) as guest:
        cpu = guest.cpu()
        cpu.boot()
        cpu.make_private(layout.FREE_GPA, layout.PAGE_SIZE)
        cpu.store(layout.FREE_GPA, 7).check()
        assert cpu.load(layout.FREE_GPA).check().value == 7
