# SPDX-License-Identifier: GPL-2.0-only
"""KVM_MEMORY_ENCRYPT_OP, the ccp driver and /dev/sev of the emulator, interface by interface."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.emulator.emulator import Emulator
from harness.emulator.kvm import vmsa
from harness.emulator.kvm.devsev import SevDevice
from harness.emulator.kvm.gmem import GmemFile
from harness.emulator.kvm.vm import Vm
from harness.emulator.machine import MachineConfig
from harness.emulator.memory import PAGE_SIZE
from harness.emulator.rmp import PageState
from harness.inspector import Inspector, RmpSize, RmpState
from harness.operations import Ioctl
from harness.uapi import kvm as uapi
from harness.uapi import sev as abi
from harness.uapi.errors import SevFwError
from harness.uapi.interfaces import INTERFACES, Interface, VmsaOrder
from harness.uapi.vmsa import sev_es_save_area
from harness.vm import boot, launch_digest

POLICY = abi.SNP_POLICY_MASK_SMT | abi.SNP_POLICY_MASK_RSVD_MBO
BASE_GFN = 0x100
SLOT_PAGES = 16
NORMAL = abi.KVM_SEV_SNP_PAGE_TYPE_NORMAL
ZERO = abi.KVM_SEV_SNP_PAGE_TYPE_ZERO


class Guest:
    """One VM driven by raw ioctls."""

    def __init__(self, host: Host, type: int = uapi.KVM_X86_SNP_VM) -> None:
        self.host = host
        self.kernel = host.kernel
        self.interface = host.kernel.interface
        self.fd = self.kernel.ioctl(host.kvm, uapi.KVM_CREATE_VM, type).value
        self.params = self.kernel.mmap(PAGE_SIZE)
        self.vcpus: list[int] = []
        self.gmem = -1

    @property
    def vm(self) -> Vm:
        file = self.kernel.process.files.get(self.fd)
        assert isinstance(file, Vm)
        return file

    def request(self, id: int, data: Any = None, sev_fd: int | None = None) -> Ioctl:
        if data is not None:
            self.kernel.write(self.params, bytes(data))
        fd = self.host.sev if sev_fd is None else sev_fd
        command = abi.kvm_sev_cmd(id=id, data=self.params if data is not None else 0)
        command.sev_fd = fd & 0xFFFFFFFF
        return Ioctl(self.fd, uapi.KVM_MEMORY_ENCRYPT_OP, bytes(command))

    def command(self, id: int, data: Any = None, sev_fd: int | None = None) -> tuple[int, int]:
        """Issue one command: (errno, firmware error)."""
        result = self.kernel.call(self.request(id, data, sev_fd))
        return result.errno, abi.kvm_sev_cmd.from_bytes(result.data).error

    def init2(self, **fields: int) -> int:
        return self.command(abi.KVM_SEV_INIT2, abi.kvm_sev_init(**fields))[0]

    def start(self, policy: int = POLICY, sev_fd: int | None = None, **fields: Any) -> int:
        kind = self.interface.launch_start
        return self.command(kind.id, kind.struct(policy=policy, **fields), sev_fd)[0]

    def memory(self, npages: int = SLOT_PAGES, *, private: bool = True) -> int:
        """A private slot at BASE_GFN; its guest_memfd."""
        create = uapi.kvm_create_guest_memfd(size=npages * PAGE_SIZE)
        self.gmem = self.kernel.ioctl(self.fd, uapi.KVM_CREATE_GUEST_MEMFD, bytes(create)).value
        region = uapi.kvm_userspace_memory_region2(
            slot=0,
            flags=uapi.KVM_MEM_GUEST_MEMFD,
            guest_phys_addr=BASE_GFN * PAGE_SIZE,
            memory_size=npages * PAGE_SIZE,
            userspace_addr=self.kernel.mmap(npages * PAGE_SIZE),
            guest_memfd=self.gmem,
        )
        assert self.kernel.ioctl(self.fd, uapi.KVM_SET_USER_MEMORY_REGION2, bytes(region)).ok
        if private:
            self.attribute(BASE_GFN, npages)
        return self.gmem

    def attribute(self, gfn: int, npages: int) -> None:
        attributes = uapi.kvm_memory_attributes(
            address=gfn * PAGE_SIZE,
            size=npages * PAGE_SIZE,
            attributes=uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE,
        )
        assert self.kernel.ioctl(self.fd, uapi.KVM_SET_MEMORY_ATTRIBUTES, bytes(attributes)).ok

    def update(
        self, npages: int = 1, type: int = NORMAL, *, gfn: int = BASE_GFN, **fields: Any
    ) -> tuple[int, int]:
        kind = self.interface.launch_update
        fields.setdefault("len", npages * PAGE_SIZE)
        if "uaddr" not in fields:
            fields["uaddr"] = self.kernel.mmap(max(npages, 1) * PAGE_SIZE)
            self.kernel.write(fields["uaddr"], b"\x5a" * npages * PAGE_SIZE)
        self.sent = kind.struct(gfn_start=gfn, type=type, **fields)
        return self.command(kind.id, self.sent)

    def returned(self) -> Any:
        """The update structure as it came back."""
        kind = self.interface.launch_update.struct
        return kind.from_buffer_copy(self.kernel.read(self.params, ctypes.sizeof(kind)))

    def finish(self, **fields: Any) -> int:
        kind = self.interface.launch_finish
        return self.command(kind.id, kind.struct(**fields))[0]

    def vcpu(self, id: int = 0) -> int:
        fd = self.kernel.ioctl(self.fd, uapi.KVM_CREATE_VCPU, id).value
        self.vcpus.append(fd)
        return fd

    def launched(self, vcpus: int = 1) -> Guest:
        """Take the VM all the way."""
        assert self.init2() == 0
        self.memory()
        for id in range(vcpus):
            self.vcpu(id)
        assert self.start() == 0
        assert self.update(4) == (0, 0)
        assert self.finish() == 0
        return self

    def close(self) -> None:
        for fd in (*self.vcpus, self.gmem, self.fd):
            if fd >= 0:
                self.kernel.close(fd)


class Host:
    """An emulated host with both devices open."""

    def __init__(self, interface: Interface, **config: Any) -> None:
        config.setdefault("memory", 2 << 30)
        self.kernel = Emulator(interface, MachineConfig(**config))
        self.kvm = self.kernel.open("/dev/kvm")
        self.sev = self.kernel.open("/dev/sev")

    @property
    def inspector(self) -> Inspector:
        assert self.kernel.inspector is not None
        return self.kernel.inspector

    @property
    def counters(self) -> dict[str, int]:
        return self.inspector.counters()

    def assert_clean(self) -> None:
        """No page belongs to a guest, no ASID is taken, nothing was leaked."""
        assert self.kernel.machine.rmp.assigned_pages() == 0
        assert self.counters["asids"] == 0
        assert self.counters["leaked_pages"] == 0

    def refuse(self, command: int, status: int, *, after: int = 0) -> None:
        """Let the firmware refuse a command, once `after` of its kind went through."""
        psp: Any = self.kernel.machine.psp
        real, seen = psp.command, 0

        def refusing(cmd: int, paddr: int) -> int:
            nonlocal seen
            if cmd == command:
                seen += 1
                if seen > after:
                    return status
            return int(real(cmd, paddr))

        psp.command = refusing

    def obey(self) -> None:
        """Let the firmware do everything again."""
        psp: Any = self.kernel.machine.psp
        del psp.command

    def issue(self, cmd: int, data: Any = b"") -> tuple[int, int, bytes]:
        """SEV_ISSUE_CMD: (errno, firmware error, data as it came back)."""
        address = self.kernel.mmap(PAGE_SIZE)
        raw = bytes(data)
        self.kernel.write(address, raw)
        issue = abi.sev_issue_cmd(cmd=cmd, data=address)
        result = self.kernel.ioctl(self.sev, abi.SEV_ISSUE_CMD, bytes(issue))
        error = abi.sev_issue_cmd.from_bytes(result.data).error
        return result.errno, error, self.kernel.read(address, len(raw)) if raw else b""


@pytest.fixture(params=sorted(INTERFACES))
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    made = Host(INTERFACES[request.param])
    yield made
    made.kernel.shutdown()


@pytest.fixture
def merged() -> Iterator[Host]:
    made = Host(INTERFACES["merged"])
    yield made
    made.kernel.shutdown()


@pytest.fixture
def guest(host: Host) -> Guest:
    return Guest(host)


# -- initialisation --------------------------------------------------------------------------


def test_boot_initialises_the_firmware(host: Host) -> None:
    assert host.kernel.kvm.ccp.snp_initialized
    assert "SEV-SNP API:1." in host.kernel.log()
    assert host.counters["wbinvd"] >= 2


@pytest.mark.parametrize(
    "fields", [{"flags": 1}, {"vmsa_features": 1}, {"vmsa_features": 1 << 63}], ids=str
)
def test_init2_refuses_unknown_bits(guest: Guest, fields: dict[str, int]) -> None:
    assert guest.init2(**fields) == errno.EINVAL
    assert guest.init2() == 0


def test_init2_ghcb_version(guest: Guest) -> None:
    """A version KVM does not know is refused where the interface has the field at all."""
    expected = errno.EINVAL if guest.interface.init2_ghcb_version else 0
    assert guest.init2(ghcb_version=3) == expected
    if expected:
        if not guest.interface.ghcb_version_1:
            assert guest.init2(ghcb_version=1) == errno.EINVAL
        lowest = 1 if guest.interface.ghcb_version_1 else 2
        assert guest.init2(ghcb_version=lowest) == 0
        assert guest.vm.sev.ghcb_version == lowest


def test_init2_adds_snp_active_and_defaults(guest: Guest) -> None:
    assert guest.init2(vmsa_features=1 << 5) == 0
    assert guest.vm.sev.vmsa_features == 1 << 5 | 1
    assert guest.vm.sev.ghcb_version == 2
    assert guest.vm.asid == 1


def test_init2_after_a_vcpu_exists(guest: Guest) -> None:
    guest.vcpu()
    assert guest.init2() == errno.EINVAL


def test_init2_twice(guest: Guest) -> None:
    assert guest.init2() == 0
    assert guest.init2() == (guest.interface.legacy_command_errno or errno.EINVAL)


def test_init2_on_a_vm_without_a_type(host: Host) -> None:
    assert Guest(host, uapi.KVM_X86_DEFAULT_VM).init2() == errno.EINVAL
    assert Guest(host, uapi.KVM_X86_SW_PROTECTED_VM).init2() == errno.EINVAL


def test_init_is_for_vms_without_a_type(host: Host) -> None:
    for command in (abi.KVM_SEV_INIT, abi.KVM_SEV_ES_INIT):
        assert Guest(host).command(command) == (errno.EINVAL, 0)
        assert Guest(host, uapi.KVM_X86_DEFAULT_VM).command(command) == (0, 0)


def test_plain_sev_guests_have_asids_of_their_own(host: Host) -> None:
    plain = Guest(host, uapi.KVM_X86_SEV_VM)
    assert plain.init2(vmsa_features=1 << 5) == errno.EINVAL
    assert plain.init2(ghcb_version=2) == (
        errno.EINVAL if plain.interface.init2_ghcb_version else 0
    )
    plain = Guest(host, uapi.KVM_X86_SEV_VM)
    assert plain.init2() == 0
    assert plain.vm.asid > host.kernel.config.asids


def test_no_argument_is_a_probe(guest: Guest) -> None:
    assert guest.kernel.ioctl(guest.fd, uapi.KVM_MEMORY_ENCRYPT_OP, 0).ok
    assert guest.kernel.ioctl(guest.fd, uapi.KVM_MEMORY_ENCRYPT_OP, 0x1000).errno == errno.EFAULT


def test_probe_tells_the_interface(guest: Guest) -> None:
    for command, expected in guest.interface.probe:
        assert guest.command(command)[0] == expected


def test_legacy_commands_on_an_snp_guest(guest: Guest) -> None:
    assert guest.init2() == 0
    start = abi.kvm_sev_launch_start()
    code = guest.command(abi.KVM_SEV_LAUNCH_START, start, sev_fd=-1)[0]
    assert code == (guest.interface.legacy_command_errno or errno.EBADF)


def test_supported_features(host: Host) -> None:
    address = host.kernel.mmap(PAGE_SIZE)
    group, attr = host.kernel.interface.vmsa_features_attribute
    attribute = uapi.kvm_device_attr(group=group, attr=attr, addr=address)
    assert host.kernel.ioctl(host.kvm, uapi.KVM_HAS_DEVICE_ATTR, bytes(attribute)).ok
    assert host.kernel.ioctl(host.kvm, uapi.KVM_GET_DEVICE_ATTR, bytes(attribute)).ok
    assert int.from_bytes(host.kernel.read(address, 8), "little") == 1 << 5
    attribute.attr = 9
    result = host.kernel.ioctl(host.kvm, uapi.KVM_HAS_DEVICE_ATTR, bytes(attribute))
    assert result.errno == errno.ENXIO


def test_cpuid_says_where_the_cbit_is(host: Host) -> None:
    """Leaf 0x8000001F: SEV, SEV-ES and SNP, C-bit 51, no VMPLs; the list fits a CPUID page."""
    size = ctypes.sizeof(uapi.kvm_cpuid_entry2)
    empty = uapi.kvm_cpuid2(nent=64)
    raw = bytes(empty) + bytes(64 * size)
    result = host.kernel.ioctl(host.kvm, uapi.KVM_GET_SUPPORTED_CPUID, raw)
    assert result.ok
    count = uapi.kvm_cpuid2.from_bytes(result.data).nent
    entries = [
        uapi.kvm_cpuid_entry2.from_buffer_copy(result.data, 8 + n * size) for n in range(count)
    ]
    leaf = next(entry for entry in entries if entry.function == 0x8000001F)
    assert leaf.eax & 0x1A == 0x1A
    assert leaf.ebx == 51


@pytest.mark.parametrize(
    ("config", "es_init"),
    [
        ({"sev_snp": False}, 0),
        ({"sev_es": False}, errno.ENOTTY),
        ({"sev": False}, errno.ENOTTY),
    ],
    ids=["no SNP", "no SEV-ES", "no SEV"],
)
def test_parameters_of_kvm_amd(config: dict[str, bool], es_init: int) -> None:
    """What is switched off has no VM type, no command, and no SNP firmware behind it."""
    kernel = Emulator("merged", MachineConfig(memory=1 << 30, **config))
    kvm = kernel.open("/dev/kvm")
    assert kernel.ioctl(kvm, uapi.KVM_CREATE_VM, uapi.KVM_X86_SNP_VM).errno == errno.EINVAL
    assert not kernel.kvm.ccp.snp_initialized
    assert "kvm_amd: SEV-SNP disabled" in kernel.log()
    vm = kernel.ioctl(kvm, uapi.KVM_CREATE_VM, uapi.KVM_X86_DEFAULT_VM).value
    command = abi.kvm_sev_cmd(id=abi.KVM_SEV_ES_INIT)
    assert kernel.ioctl(vm, uapi.KVM_MEMORY_ENCRYPT_OP, bytes(command)).errno == es_init
    kernel.shutdown()


# -- ASIDs -----------------------------------------------------------------------------------


def test_asids_run_out_and_come_back() -> None:
    """A freed ASID is used again only after WBINVD and a DF_FLUSH, done when there is none left."""
    host = Host(INTERFACES["merged"], asids=2)
    guests = [Guest(host) for _ in range(3)]
    assert [guest.init2() for guest in guests] == [0, 0, errno.EBUSY]
    flushes = host.counters["wbinvd"]
    guests[0].close()
    assert host.counters["asids"] == 1
    assert guests[2].init2() == 0
    assert guests[2].vm.asid == 1
    assert host.counters["wbinvd"] == flushes + 2  # one for the VM's end, one to recycle
    host.kernel.shutdown()


# -- LAUNCH_START ----------------------------------------------------------------------------


def test_start_before_init2(guest: Guest) -> None:
    assert guest.start() == errno.ENOTTY


@pytest.mark.parametrize(
    "policy",
    [
        POLICY & ~abi.SNP_POLICY_MASK_SMT,
        POLICY | abi.SNP_POLICY_MASK_SINGLE_SOCKET,
    ],
    ids=["no SMT", "single socket"],
)
def test_refused_policy(guest: Guest, policy: int) -> None:
    """It is refused by KVM; only where that comes first can the start be tried again."""
    assert guest.init2() == 0
    if not guest.interface.policy_refused:
        kept_by_one_socket = policy & abi.SNP_POLICY_MASK_SINGLE_SOCKET
        assert guest.start(policy) == (0 if kept_by_one_socket else errno.EIO)
        return
    assert guest.start(policy) == errno.EINVAL
    assert guest.start() == (0 if guest.interface.policy_checked_first else errno.EINVAL)
    guest.close()
    guest.host.assert_clean()


def test_policy_bits_that_only_some_interfaces_check(guest: Guest) -> None:
    interface = guest.interface
    assert guest.init2() == 0
    code = guest.start(POLICY | abi.SNP_POLICY_MASK_MIGRATE_MA)
    assert (code == errno.EINVAL) == (interface.policy_valid is not None)


def test_start_with_flags(merged: Host) -> None:
    guest = Guest(merged)
    assert guest.init2() == 0
    assert guest.start(flags=1) == errno.EINVAL
    assert guest.start() == 0


def test_start_twice(guest: Guest) -> None:
    assert guest.init2() == 0
    assert guest.start() == 0
    assert guest.start() == errno.EINVAL


def test_start_without_the_device(guest: Guest) -> None:
    """A descriptor that is not /dev/sev looks like a context that cannot be made."""
    assert guest.init2() == 0
    before = guest.kernel.machine.frames.allocated
    assert guest.start(sev_fd=guest.fd) == errno.ENOTTY
    assert "Failed to create SEV-SNP context, rc -9 fw_error 0" in guest.kernel.log()
    assert guest.kernel.machine.frames.allocated == before
    assert guest.start() == 0


def test_start_refused_by_the_firmware(guest: Guest) -> None:
    """The context goes, so that a start with another policy works."""
    assert guest.init2() == 0
    kind = guest.interface.launch_start
    too_new = kind.struct(policy=POLICY | 0xFF00)
    assert guest.command(kind.id, too_new) == (errno.EIO, SevFwError.POLICY_FAILURE)
    assert guest.vm.sev.snp_context is None
    assert guest.start() == 0


# -- LAUNCH_UPDATE ---------------------------------------------------------------------------


@pytest.fixture
def started(guest: Guest) -> Guest:
    assert guest.init2() == 0
    guest.memory()
    assert guest.start() == 0
    return guest


def test_update_before_start(guest: Guest) -> None:
    guest.memory()
    assert guest.update()[0] == errno.EINVAL
    assert guest.init2() == 0
    assert guest.update()[0] == errno.EINVAL


@pytest.mark.parametrize("type", [0, 2, 7, 255])
def test_update_with_a_type_that_is_none(started: Guest, type: int) -> None:
    assert started.update(type=type) == (errno.EINVAL, 0)


def test_update_of_part_of_a_page(started: Guest) -> None:
    assert started.update(len=PAGE_SIZE + 1) == (errno.EINVAL, 0)


def test_update_outside_of_private_slots(started: Guest) -> None:
    assert started.update(gfn=0) == (errno.EINVAL, 0)


def test_update_with_flags(merged: Host) -> None:
    guest = Guest(merged)
    assert guest.init2() == 0
    guest.memory()
    assert guest.start() == 0
    assert guest.update(flags=1) == (errno.EINVAL, 0)


def test_update_assigns_validates_and_reports_progress(started: Guest) -> None:
    assert started.update(3) == (0, 0)
    for page in range(3):
        entry = started.host.inspector.gmem_rmp(started.gmem, page * PAGE_SIZE)
        gpa = (BASE_GFN + page) * PAGE_SIZE
        assert entry == RmpState(True, started.vm.asid, gpa, True, RmpSize.SIZE_4K)
    after, sent = started.returned(), started.sent
    done = 3 if started.interface.update_writes_progress else 0
    assert after.gfn_start == sent.gfn_start + done
    assert after.uaddr == sent.uaddr + done * PAGE_SIZE
    assert after.len == sent.len - done * PAGE_SIZE


def test_update_stops_at_the_end_of_the_slot(merged: Host) -> None:
    guest = Guest(merged)
    assert guest.init2() == 0
    guest.memory(4)
    assert guest.start() == 0
    assert guest.update(6, gfn=BASE_GFN + 1) == (0, 0)
    after = guest.returned()
    assert (after.gfn_start, after.len) == (BASE_GFN + 4, 3 * PAGE_SIZE)


def test_zero_pages_need_no_source(started: Guest) -> None:
    assert started.update(2, ZERO, uaddr=0) == (0, 0)
    assert started.returned().uaddr == 0


def test_update_without_a_source(started: Guest) -> None:
    interface = started.interface
    expected = interface.update_errno if interface.update_any_source else None
    assert started.update(uaddr=0)[0] == (expected or errno.EINVAL)


def test_update_from_memory_that_is_not_there(started: Guest) -> None:
    code = started.update(uaddr=0x1000)[0]
    assert code == (started.interface.update_errno or errno.EFAULT)
    assert started.kernel.machine.rmp.assigned_pages() == 0


def test_update_of_shared_frames(guest: Guest) -> None:
    assert guest.init2() == 0
    guest.memory(private=False)
    assert guest.start() == 0
    assert guest.update()[0] == guest.interface.update_not_private_errno
    assert guest.kernel.machine.rmp.assigned_pages() == 0


def test_update_ends_where_private_memory_does(merged: Host) -> None:
    """What was done before the failure counts; only a failure at the first page is reported."""
    guest = Guest(merged)
    assert guest.init2() == 0
    guest.memory(private=False)
    guest.attribute(BASE_GFN, 2)
    assert guest.start() == 0
    assert guest.update(3) == (0, 0)
    assert guest.returned().len == PAGE_SIZE
    assert guest.update(1, gfn=BASE_GFN + 2)[0] == errno.EIO


def test_update_of_an_assigned_page(started: Guest) -> None:
    assert started.update() == (0, 0)
    before = started.host.inspector.gmem_bytes(started.gmem, 0, PAGE_SIZE)
    assert started.update(type=ZERO)[0] == started.interface.update_assigned_errno
    assert started.host.inspector.gmem_bytes(started.gmem, 0, PAGE_SIZE) == before


def test_update_with_another_descriptor(started: Guest) -> None:
    """The page was the guest's already when it turns out that there is no firmware to ask."""
    kind = started.interface.launch_update
    source = started.kernel.mmap(PAGE_SIZE)
    params = kind.struct(gfn_start=BASE_GFN, uaddr=source, len=PAGE_SIZE, type=NORMAL)
    code = started.command(kind.id, params, sev_fd=-1)[0]
    assert code == (started.interface.update_errno or errno.EBADF)
    assert started.kernel.machine.rmp.assigned_pages() == 0
    assert started.update() == (0, 0)


def test_update_refused_by_the_firmware(started: Guest) -> None:
    started.host.refuse(abi.SEV_CMD_SNP_LAUNCH_UPDATE, SevFwError.INVALID_PARAM)
    assert started.update() == (
        started.interface.update_firmware_errno,
        SevFwError.INVALID_PARAM,
    )
    assert started.kernel.machine.rmp.assigned_pages() == 0
    started.close()
    started.host.assert_clean()


def test_signal_ends_an_update_early(merged: Host) -> None:
    """What was done counts, and the structure says where to go on."""
    guest = Guest(merged)
    assert guest.init2() == 0
    guest.memory(512)
    assert guest.start() == 0
    kind = guest.interface.launch_update
    source = guest.kernel.mmap(512 * PAGE_SIZE)
    params = kind.struct(gfn_start=BASE_GFN, uaddr=source, len=512 * PAGE_SIZE, type=NORMAL)
    ticket = guest.kernel.start([guest.request(kind.id, params)], thread=1)
    for _ in range(20):
        assert guest.kernel.ioctl(merged.kvm, uapi.KVM_GET_API_VERSION).ok
    guest.kernel.interrupt(1)
    assert guest.kernel.wait(ticket)[-1].ok
    left = guest.returned()
    done = left.gfn_start - BASE_GFN
    assert 0 < done < 512
    assert left.len == (512 - done) * PAGE_SIZE
    assert merged.kernel.machine.rmp.assigned_pages() == done
    assert guest.command(kind.id, left) == (0, 0)
    assert merged.kernel.machine.rmp.assigned_pages() == 512


@pytest.mark.parametrize("seed", range(4))
def test_two_updates_of_one_range(seed: int) -> None:
    """One loads the range, the other finds it taken; each page is measured once."""
    host = Host(INTERFACES["merged"], seed=seed)
    guest = Guest(host)
    assert guest.init2() == 0
    guest.memory()
    assert guest.start() == 0
    kind = guest.interface.launch_update
    params = kind.struct(gfn_start=BASE_GFN, len=8 * PAGE_SIZE, type=ZERO)
    tickets = []
    for thread in (1, 2):
        guest.params = host.kernel.mmap(PAGE_SIZE)  # progress is written back to it
        tickets.append(host.kernel.start([guest.request(kind.id, params)], thread=thread))
    codes = [host.kernel.wait(ticket)[-1].errno for ticket in tickets]
    assert sorted(codes) == [0, errno.EIO]
    assert host.kernel.machine.rmp.assigned_pages() == 8
    guest.close()
    host.assert_clean()
    host.kernel.shutdown()


def test_update_after_finish(guest: Guest) -> None:
    guest.launched()
    assert guest.update(gfn=BASE_GFN + 8) == (errno.EIO, SevFwError.INVALID_GUEST_STATE)


def test_cpuid_page_comes_back_corrected(started: Guest) -> None:
    """The firmware refuses a leaf that promises too much, and says what it would have taken."""
    page = bytearray(PAGE_SIZE)
    page[0:4] = (1).to_bytes(4, "little")
    page[0x10:0x14] = (0x80000008).to_bytes(4, "little")
    page[0x2C:0x30] = (0xFFFFFFFF).to_bytes(4, "little")
    source = started.kernel.mmap(PAGE_SIZE)
    started.kernel.write(source, bytes(page))
    kind = abi.KVM_SEV_SNP_PAGE_TYPE_CPUID
    code, error = started.update(type=kind, uaddr=source)
    assert (code, error) == (started.interface.update_firmware_errno, SevFwError.INVALID_PARAM)
    corrected = started.kernel.read(source, PAGE_SIZE)
    assert corrected != bytes(page)
    assert started.kernel.machine.rmp.assigned_pages() == 0
    assert started.update(type=kind, uaddr=source) == (0, 0)


# -- LAUNCH_FINISH ---------------------------------------------------------------------------


def test_finish_before_init2_and_start(guest: Guest) -> None:
    assert guest.finish() == errno.ENOTTY
    assert guest.init2() == 0
    assert guest.finish() == errno.EINVAL


def test_finish_with_flags(merged: Host) -> None:
    guest = Guest(merged)
    assert guest.init2() == 0
    assert guest.start() == 0
    assert guest.finish(flags=1) == errno.EINVAL


def test_finish_protects_the_vcpus(guest: Guest) -> None:
    guest.launched(vcpus=2)
    assert guest.vm.pre_fault_allowed
    for fd in guest.vcpus:
        result = guest.kernel.ioctl(fd, uapi.KVM_GET_REGS, bytes(uapi.kvm_regs()))
        assert result.errno == errno.EINVAL
    rmp = guest.kernel.machine.rmp
    for vcpu in guest.vm.vcpus:
        assert vcpu.state.vmsa_pa is not None
        entry = rmp.entry(vcpu.state.vmsa_pa)
        assert (entry.vmsa, entry.asid, entry.gpa) == (True, guest.vm.asid, 0xFFFFFFFFF000)


def test_finish_twice(guest: Guest) -> None:
    """A vCPU cannot be measured again."""
    guest.launched()
    assert guest.finish() == errno.EINVAL


def test_finish_twice_without_vcpus(guest: Guest) -> None:
    """Then it is for the firmware to refuse."""
    guest.launched(vcpus=0)
    kind = guest.interface.launch_finish
    assert guest.command(kind.id, kind.struct()) == (errno.EIO, SevFwError.INVALID_GUEST_STATE)


def test_finish_with_another_descriptor(started: Guest) -> None:
    started.vcpu()
    kind = started.interface.launch_finish
    assert started.command(kind.id, kind.struct(), sev_fd=-1)[0] == errno.EBADF
    assert started.kernel.machine.rmp.assigned_pages() == 0
    assert started.finish() == 0


@pytest.mark.parametrize(
    ("address", "expected"), [(0, errno.EINVAL), (0x1000, errno.EFAULT)], ids=["null", "unmapped"]
)
def test_finish_with_a_bad_id_block(started: Guest, address: int, expected: int) -> None:
    before = started.kernel.machine.frames.allocated
    assert started.finish(id_block_en=1, id_block_uaddr=address) == expected
    assert started.kernel.machine.frames.allocated == before


def test_finish_refused_for_a_vcpu(started: Guest) -> None:
    """The VMSA that the firmware refused goes back; the one before it stays the guest's."""
    started.vcpu(0)
    started.vcpu(1)
    started.host.refuse(abi.SEV_CMD_SNP_LAUNCH_UPDATE, SevFwError.INVALID_PAGE_STATE, after=1)
    assert started.finish() == errno.EIO
    assert started.kernel.machine.rmp.assigned_pages() == 1
    assert [vcpu.guest_state_protected for vcpu in started.vm.vcpus] == [True, False]
    started.close()
    started.host.assert_clean()


def test_vcpus_are_measured_in_the_order_of_the_interface(started: Guest) -> None:
    for id in (2, 0, 1):
        started.vcpu(id)
    seen: list[int] = []
    psp: Any = started.kernel.machine.psp
    real = psp.command

    def watching(cmd: int, paddr: int) -> int:
        if cmd == abi.SEV_CMD_SNP_LAUNCH_UPDATE:
            size = ctypes.sizeof(abi.sev_data_snp_launch_update)
            raw = started.kernel.machine.memory.read(paddr, size)
            seen.append(abi.sev_data_snp_launch_update.from_buffer_copy(raw).address)
        return int(real(cmd, paddr))

    psp.command = watching
    assert started.finish() == 0
    by_page = {vcpu.state.vmsa_pa: vcpu.id for vcpu in started.vm.vcpus}
    boot_first = started.interface.vmsa_order is VmsaOrder.BOOT_FIRST
    assert [by_page[pa] for pa in seen] == ([0, 2, 1] if boot_first else [2, 0, 1])


def test_launch_digest(started: Guest) -> None:
    """The firmware arrives at the digest that sev-snp-measure computes from what was loaded."""
    kernel = started.kernel
    vmsas: dict[int, bytes] = {}
    for id in (1, 0):
        fd = started.vcpu(id)
        sregs = uapi.kvm_sregs()
        boot.set_sregs(sregs)
        regs = uapi.kvm_regs(rip=0x100000 + id, rsp=0x8000, rdi=id, r15=1 << 63, rflags=2)
        fpu = uapi.kvm_fpu(fcw=0x37F, mxcsr=0x1F80)
        assert kernel.ioctl(fd, uapi.KVM_SET_SREGS, bytes(sregs)).ok
        assert kernel.ioctl(fd, uapi.KVM_SET_REGS, bytes(regs)).ok
        assert kernel.ioctl(fd, uapi.KVM_SET_FPU, bytes(fpu)).ok
        vmsas[id] = launch_digest.vmsa_page(regs, sregs)
    types = (NORMAL, ZERO, abi.KVM_SEV_SNP_PAGE_TYPE_UNMEASURED, abi.KVM_SEV_SNP_PAGE_TYPE_SECRETS)
    pages = []
    for number, type in enumerate(types):
        assert started.update(1, type, gfn=BASE_GFN + number) == (0, 0)
        gpa = (BASE_GFN + number) * PAGE_SIZE
        pages.append(boot.LaunchPages(gpa, b"\x5a" * PAGE_SIZE, type))
    assert started.finish() == 0
    boot_first = started.interface.vmsa_order is VmsaOrder.BOOT_FIRST
    order = (0, 1) if boot_first else (1, 0)
    expected = launch_digest.launch_digest(pages, [vmsas[id] for id in order])
    context = started.vm.sev.snp_context
    assert context is not None
    assert kernel.machine.psp.guests.find(context).digest.value == expected


def test_vmsa_holds_the_whole_of_the_fpu(started: Guest) -> None:
    """x87 registers are split in two areas, 8 bytes of each and then the 2 others of each."""
    fd = started.vcpu()
    fpu = uapi.kvm_fpu(fcw=0x37F, fsw=3, ftwx=0xFF, mxcsr=0x1FA0, last_ip=5, last_dp=6)
    for register in range(8):
        fpu.fpr[register][:] = [register] * 8 + [0xA0 + register] * 2 + [0] * 6
    fpu.xmm[15][:] = list(range(16))
    assert started.kernel.ioctl(fd, uapi.KVM_SET_FPU, bytes(fpu)).ok
    page = vmsa.build(started.vm.vcpus[0])
    save = sev_es_save_area.from_bytes(page)
    assert (save.x87_fcw, save.x87_fsw, save.x87_ftw, save.mxcsr) == (0x37F, 3, 0xFF, 0x1FA0)
    assert (save.x87_rip, save.x87_dp) == (5, 6)
    assert bytes(save.fpreg_x87) == b"".join(bytes([n] * 8) for n in range(8)) + b"".join(
        bytes([0xA0 + n] * 2) for n in range(8)
    )
    assert bytes(save.fpreg_xmm)[240:] == bytes(range(16))
    assert len(page) == PAGE_SIZE


@pytest.mark.parametrize("seed", range(8))
def test_finish_against_vcpu_ioctls(seed: int) -> None:
    """Whichever wins, every call ends as a success or EINVAL, and the VM can be torn down."""
    host = Host(INTERFACES["merged"], seed=seed)
    guest = Guest(host)
    assert guest.init2() == 0
    guest.memory()
    fds = [guest.vcpu(id) for id in range(3)]
    assert guest.start() == 0
    assert guest.update(4) == (0, 0)
    kind = guest.interface.launch_finish
    finish = host.kernel.start([guest.request(kind.id, kind.struct())], thread=1)
    set_regs = bytes(uapi.kvm_regs(rip=0x1234, rflags=2))
    others = [
        host.kernel.start([Ioctl(fd, uapi.KVM_SET_REGS, set_regs)] * 4, thread=2 + number)
        for number, fd in enumerate(fds)
    ]
    codes = {result.errno for ticket in others for result in host.kernel.wait(ticket)}
    assert codes <= {0, errno.EINVAL}
    assert host.kernel.wait(finish)[-1].ok
    assert all(vcpu.guest_state_protected for vcpu in guest.vm.vcpus)
    guest.close()
    host.assert_clean()
    host.kernel.shutdown()


# -- the end of a VM -------------------------------------------------------------------------


@pytest.mark.parametrize("stage", range(6))
def test_teardown_leaves_nothing(guest: Guest, stage: int) -> None:
    """A VM closed at any stage of its launch gives back every page and its ASID."""
    kernel = guest.kernel
    before = kernel.machine.frames.allocated
    steps: list[Callable[[], bool]] = [
        lambda: guest.init2() == 0,
        lambda: guest.memory() >= 0 and guest.vcpu() >= 0,
        lambda: guest.start() == 0,
        lambda: guest.update(8) == (0, 0),
        lambda: guest.update(4, ZERO, gfn=BASE_GFN + 8, uaddr=0) == (0, 0),
        lambda: guest.finish() == 0,
    ]
    user = kernel.process.memory
    for step in steps[: stage + 1]:
        assert step()
    guest.close()
    guest.host.assert_clean()
    user.release()
    assert kernel.machine.frames.allocated <= before


def test_context_that_cannot_be_released(started: Guest) -> None:
    """The ASID is leaked with it."""
    started.host.refuse(abi.SEV_CMD_SNP_DECOMMISSION, SevFwError.INVALID_GUEST)
    started.close()
    assert "Failed to release guest context" in started.kernel.log()
    assert started.host.counters["asids"] == 1


def test_page_that_cannot_be_reclaimed(started: Guest) -> None:
    """It is leaked, and no ioctl goes through to that VM any more."""
    started.host.refuse(abi.SEV_CMD_SNP_LAUNCH_UPDATE, SevFwError.INVALID_PARAM)
    started.host.refuse(abi.SEV_CMD_SNP_PAGE_RECLAIM, SevFwError.INVALID_PAGE_STATE)
    assert started.update()[0] == started.interface.update_firmware_errno
    assert started.host.counters["leaked_pages"] == 1
    assert started.init2() == errno.EIO
    started.host.obey()
    gmem = started.kernel.process.files.get(started.gmem)
    assert isinstance(gmem, GmemFile)
    page = gmem.page(0)
    assert page is not None
    assert started.kernel.kvm.ccp.reclaim_pages(page, 1)


def test_firmware_pages_return_to_the_hypervisor(guest: Guest) -> None:
    assert guest.init2() == 0
    assert guest.start() == 0
    context = guest.vm.sev.snp_context
    assert context is not None
    rmp = guest.kernel.machine.rmp
    assert rmp.state_of(context) is PageState.CONTEXT
    guest.close()
    assert rmp.state_of(context) is PageState.HYPERVISOR


# -- /dev/sev --------------------------------------------------------------------------------


def test_unknown_ioctls_and_commands(host: Host) -> None:
    assert host.kernel.ioctl(host.sev, 0x1234, 0).errno == errno.EINVAL
    assert host.issue(99)[0] == errno.EINVAL


def test_platform_status(host: Host) -> None:
    code, error, data = host.issue(abi.SNP_PLATFORM_STATUS, abi.sev_user_data_snp_status())
    assert (code, error) == (0, 0)
    status = abi.sev_user_data_snp_status.from_bytes(data)
    assert (status.api_major, status.state, status.is_rmp_initialized) == (1, 1, 1)
    assert status.guest_count == 0
    Guest(host).launched()
    data = host.issue(abi.SNP_PLATFORM_STATUS, abi.sev_user_data_snp_status())[2]
    assert abi.sev_user_data_snp_status.from_bytes(data).guest_count == 1
    code, error, data = host.issue(abi.SEV_PLATFORM_STATUS, abi.sev_user_data_status())
    assert (code, error) == (0, 0)
    assert abi.sev_user_data_status.from_bytes(data).api_major == 1


def test_set_config(host: Host) -> None:
    config = abi.sev_user_data_snp_config(mask_chip_key=1)
    assert host.issue(abi.SNP_SET_CONFIG, config)[:2] == (0, 0)
    data = host.issue(abi.SNP_PLATFORM_STATUS, abi.sev_user_data_snp_status())[2]
    assert abi.sev_user_data_snp_status.from_bytes(data).mask_chip_key == 1
    config = abi.sev_user_data_snp_config(reported_tcb=(1 << 64) - 1)
    code, error, _ = host.issue(abi.SNP_SET_CONFIG, config)
    assert code == errno.EIO
    assert error != 0


def test_commit(host: Host) -> None:
    assert host.issue(abi.SNP_COMMIT)[:2] == (0, 0)


def test_vlek_load_checks_its_header(host: Host) -> None:
    load = abi.sev_user_data_snp_vlek_load
    size = ctypes.sizeof(load)
    for bad in (load(len=size - 1), load(len=size, vlek_wrapped_version=1), load(len=size)):
        assert host.issue(abi.SNP_VLEK_LOAD, bad)[0] == errno.EINVAL
    absent = load(len=size, vlek_wrapped_address=0x1000)
    assert host.issue(abi.SNP_VLEK_LOAD, absent)[0] == errno.EFAULT


def test_commands_that_need_data(host: Host) -> None:
    for cmd in (abi.SNP_PLATFORM_STATUS, abi.SNP_SET_CONFIG, abi.SNP_VLEK_LOAD):
        issue = abi.sev_issue_cmd(cmd=cmd)
        result = host.kernel.ioctl(host.sev, abi.SEV_ISSUE_CMD, bytes(issue))
        assert result.errno == errno.EINVAL


def test_changes_need_the_device_writable(host: Host) -> None:
    read_only = SevDevice(host.kernel.kvm, writable=False)
    host.sev = host.kernel.process.files.install(read_only)
    config = abi.sev_user_data_snp_config()
    assert host.issue(abi.SNP_SET_CONFIG, config)[0] == errno.EPERM
    assert host.issue(abi.SNP_PLATFORM_STATUS, abi.sev_user_data_snp_status())[0] == 0


def test_pause_and_resume_attestation(host: Host) -> None:
    """Pausing twice is EBUSY, resuming always works; the ids tell whether it was one's own."""

    def step(cmd: int) -> tuple[int, int]:
        code, _, data = host.issue(cmd, abi.sev_user_data_snp_pause_attestation())
        return code, abi.sev_user_data_snp_pause_attestation.from_bytes(data).id

    if not host.kernel.interface.pause_attestation:
        assert step(abi.SNP_PAUSE_ATTESTATION)[0] == errno.EINVAL
        return
    attestation = host.kernel.kvm.ccp.attestation
    assert step(abi.SNP_PAUSE_ATTESTATION) == (0, 1)
    assert attestation.is_stale(0)
    assert step(abi.SNP_PAUSE_ATTESTATION)[0] == errno.EBUSY
    assert step(abi.SNP_RESUME_ATTESTATION) == (0, 1)
    assert attestation.is_stale(0)
    assert not attestation.is_stale(1)
    assert step(abi.SNP_RESUME_ATTESTATION) == (0, 2)
