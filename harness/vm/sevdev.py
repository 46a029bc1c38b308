# SPDX-License-Identifier: GPL-2.0-only
"""/dev/sev as userspace sees it."""

from __future__ import annotations

import ctypes
from functools import cached_property

from harness.kernel import Kernel
from harness.uapi import sev as sevapi
from harness.uapi.interfaces import Interface
from harness.vm.errors import NotSupportedError, SevError
from harness.vm.results import SevResult

SCRATCH = 1 << 16


class SevPlatform:
    """The PSP's SNP commands that the host's userspace may issue."""

    def __init__(self, kernel: Kernel, interface: Interface) -> None:
        self.kernel = kernel
        self.interface = interface

    @cached_property
    def fd(self) -> int:
        """Descriptor of /dev/sev, opened at first use."""
        return self.kernel.open("/dev/sev")

    @cached_property
    def _scratch(self) -> int:
        return self.kernel.mmap(SCRATCH)

    def call(self, command: int, data: bytes = b"") -> SevResult:
        """SEV_ISSUE_CMD; a failure is a result."""
        if data:
            self.kernel.write(self._scratch, data)
        request = sevapi.sev_issue_cmd(cmd=command, data=self._scratch if data else 0)
        result = self.kernel.ioctl(self.fd, sevapi.SEV_ISSUE_CMD, bytes(request))
        after = self.kernel.read(self._scratch, len(data)) if data else b""
        fw_error = sevapi.sev_issue_cmd.from_buffer_copy(result.data).error
        name = sevapi.DEVICE_COMMAND_NAMES.get(command, f"/dev/sev command {command}")
        return SevResult.of(name, result.errno, fw_error, after)

    def _issue(self, name: str, command: int, struct: ctypes.Structure | bytes = b"") -> bytes:
        result = self.call(command, bytes(struct))
        if result.errno:
            raise SevError(name, result.errno, result.fw_error)
        return result.data

    def platform_status(self) -> sevapi.sev_user_data_snp_status:
        """SNP_PLATFORM_STATUS."""
        kind = sevapi.sev_user_data_snp_status
        data = self._issue("SNP_PLATFORM_STATUS", sevapi.SNP_PLATFORM_STATUS, kind())
        return kind.from_buffer_copy(data)

    def commit(self) -> None:
        """SNP_COMMIT."""
        self._issue("SNP_COMMIT", sevapi.SNP_COMMIT)

    def set_config(self, config: sevapi.sev_user_data_snp_config) -> None:
        """SNP_SET_CONFIG."""
        self._issue("SNP_SET_CONFIG", sevapi.SNP_SET_CONFIG, config)

    def vlek_load(self, wrapped: bytes, version: int = 0) -> None:
        """SNP_VLEK_LOAD with a wrapped VLEK hashstick (432 bytes in version 0)."""
        at = self._scratch + SCRATCH // 2
        self.kernel.write(at, wrapped)
        struct = sevapi.sev_user_data_snp_vlek_load(
            len=ctypes.sizeof(sevapi.sev_user_data_snp_vlek_load),
            vlek_wrapped_version=version,
            vlek_wrapped_address=at,
        )
        self._issue("SNP_VLEK_LOAD", sevapi.SNP_VLEK_LOAD, struct)

    def _attestation(self, name: str, command: int) -> int:
        if not self.interface.pause_attestation:
            raise NotSupportedError(f"{name} exists in v12 only")
        kind = sevapi.sev_user_data_snp_pause_attestation
        return int(kind.from_buffer_copy(self._issue(name, command, kind())).id)

    def pause_attestation(self) -> int:
        """SNP_PAUSE_ATTESTATION (v12): the transaction id."""
        return self._attestation("SNP_PAUSE_ATTESTATION", sevapi.SNP_PAUSE_ATTESTATION)

    def resume_attestation(self) -> int:
        """SNP_RESUME_ATTESTATION (v12): the transaction id."""
        return self._attestation("SNP_RESUME_ATTESTATION", sevapi.SNP_RESUME_ATTESTATION)
