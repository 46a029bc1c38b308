# SPDX-License-Identifier: GPL-2.0-only
"""A Linux guest as data, and QEMU's command line for it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from enum import Enum

from harness.vm.vm import DEFAULT_POLICY

CONSOLE, COMMANDS, MONITOR = 1, 2, 3
"""Channels of QEMU (harness/program.py): COM1, COM2 and QMP."""
CHANNELS = 3
FIRST_FD = 10
"""The file that a program has its channel 1 as."""

SEV_POLICY, SEV_ES_POLICY = 0x1, 0x5
"""No debugging; and that the guest's state is encrypted (SEV API, GUEST_POLICY)."""

HOST_DATA_SIZE, ID_BLOCK_SIZE, ID_AUTH_SIZE = 32, 96, 4096


class Kind(Enum):
    """What protects a guest."""

    SNP = "sev-snp"
    SEV_ES = "sev-es"
    SEV = "sev"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class LinuxGuest:
    """A guest's parts and settings.  Paths are the host's that runs it."""

    firmware: str
    kernel: str = ""
    initrd: str = ""
    command_line: str = ""
    kind: Kind = Kind.SNP
    vcpus: int = 1
    max_vcpus: int = 0
    """vCPUs that may be added later; 0: as many as there are."""
    memory: int = 512
    """MiB."""
    cpu: str = "EPYC-Milan"
    policy: int = 0
    """Of SNP, SEV or SEV-ES; 0 for the default of the kind."""
    kernel_hashes: bool = True
    """Put hashes of kernel, initrd and command line where they are measured."""
    host_data: bytes = b""
    """32 bytes that every attestation report has."""
    id_block: bytes = b""
    """96 bytes; with them the firmware checks the measurement at the end of the launch."""
    id_auth: bytes = b""
    """4096 bytes: the keys, and signatures of id_block."""
    author_key: bool = False
    """Whether id_auth has an author's key."""
    vcek_disabled: bool = False
    reboots: bool = False
    """Whether a reset starts it again; else it is its end."""
    devices: tuple[str, ...] = field(default=())
    """More words for QEMU's command line."""

    def __post_init__(self) -> None:
        """Refuse what QEMU would refuse in other words."""
        for name, value, size in (
            ("host_data", self.host_data, HOST_DATA_SIZE),
            ("id_block", self.id_block, ID_BLOCK_SIZE),
            ("id_auth", self.id_auth, ID_AUTH_SIZE),
        ):
            if value and len(value) != size:
                raise ValueError(f"{name} has {len(value)} bytes; want {size}")
        if bool(self.id_block) != bool(self.id_auth):
            raise ValueError("id_block and id_auth come together")
        if self.vcpus < 1 or (self.max_vcpus and self.max_vcpus < self.vcpus):
            raise ValueError(f"vcpus is {self.vcpus}, max_vcpus {self.max_vcpus}")

    def arguments(self) -> list[str]:
        """Return QEMU's arguments; its channels have to be open as files 10 to 12."""
        smp = f"{self.vcpus},maxcpus={self.max_vcpus}" if self.max_vcpus else str(self.vcpus)
        words = ["-nodefaults", "-no-user-config", "-display", "none"]
        words += ["-cpu", self.cpu, "-smp", smp, "-m", f"{self.memory}M"]
        words += self._protection()
        if self.kernel:
            words += ["-kernel", self.kernel]
        if self.initrd:
            words += ["-initrd", self.initrd]
        if self.kernel:
            words += ["-append", self.command_line]
        for number, name in ((CONSOLE, "console"), (COMMANDS, "commands"), (MONITOR, "monitor")):
            words += ["-chardev", f"socket,id={name},fd={FIRST_FD + number - 1}"]
        words += ["-serial", "chardev:console", "-serial", "chardev:commands"]
        words += ["-mon", "chardev=monitor,mode=control"]
        if not self.reboots:
            words += ["-action", "reboot=shutdown"]
        return [*words, *self.devices]

    def _protection(self) -> list[str]:
        """Return machine, memory, firmware and what protects the guest."""
        machine = "q35,accel=kvm,kernel-irqchip=split,vmport=off,memory-backend=ram"
        memory = f"memory-backend-memfd,id=ram,size={self.memory}M,share=true,prealloc=false"
        words = ["-object", memory]
        if self.kind is Kind.NONE:
            return [*words, "-machine", machine, "-bios", self.firmware]
        words += ["-machine", f"{machine},smm=off,confidential-guest-support=protection"]
        words += ["-object", ",".join(self._object())]
        if self.kind is Kind.SNP:
            return [*words, "-bios", self.firmware]
        # OVMF's build for SEV keeps variables in the flash; -bios has no flash.
        return [*words, "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={self.firmware}"]

    def _object(self) -> list[str]:
        """Return the object of QEMU that launches the guest."""
        default = {
            Kind.SNP: DEFAULT_POLICY,
            Kind.SEV_ES: SEV_ES_POLICY,
            Kind.SEV: SEV_POLICY,
        }[self.kind]
        words = ["sev-snp-guest" if self.kind is Kind.SNP else "sev-guest", "id=protection"]
        words += ["cbitpos=51", "reduced-phys-bits=1", f"policy={self.policy or default:#x}"]
        words.append(f"kernel-hashes={'on' if self.kernel_hashes and self.kernel else 'off'}")
        for name, value in (
            ("host-data", self.host_data),
            ("id-block", self.id_block),
            ("id-auth", self.id_auth),
        ):
            if value:
                words.append(f"{name}={base64.b64encode(value).decode()}")
        if self.author_key:
            words.append("author-key-enabled=on")
        if self.vcek_disabled:
            words.append("vcek-disabled=on")
        return words
