# SPDX-License-Identifier: GPL-2.0-only
"""The table of plain SEV's commands.

Which of them write to their own buffer is sev_cmd_buf_writable's matter (sev-dev.c, Linux 6.12).
"""

from __future__ import annotations

from collections.abc import Callable

from harness.emulator.psp.asids import Asids
from harness.emulator.psp.command import Command
from harness.emulator.psp.legacy import LegacyCommands
from harness.emulator.psp.pages import Pages
from harness.emulator.psp.platform import Platform
from harness.emulator.psp.sev_guest import SevGuestCommands, SevGuests
from harness.emulator.psp.sev_launch import SevDebug, SevLaunch
from harness.emulator.psp.sev_migration import SevMigration
from harness.uapi import sev
from harness.uapi.layout import Struct, size


def _reads(run: Callable[[bytes], None], buffer: type[Struct]) -> Command:
    return Command(run, size(buffer))


def _writes(run: Callable[[bytes], bytes], buffer: type[Struct]) -> Command:
    return Command(run, size(buffer), writes=True)


def sev_commands(
    platform: Platform, guests: SevGuests, asids: Asids, pages: Pages
) -> dict[int, Command]:
    """Commands by number."""
    legacy = LegacyCommands(platform, guests, asids, pages)
    guest = SevGuestCommands(platform, guests)
    launch = SevLaunch(platform, guests, pages)
    debug = SevDebug(guests, pages)
    move = SevMigration(platform, guests, pages)
    return {
        sev.SEV_CMD_INIT: _reads(legacy.init, sev.sev_data_init),
        sev.SEV_CMD_INIT_EX: _reads(legacy.init_ex, sev.sev_data_init_ex),
        sev.SEV_CMD_SHUTDOWN: Command(legacy.shutdown),
        sev.SEV_CMD_FACTORY_RESET: Command(legacy.factory_reset),
        sev.SEV_CMD_PLATFORM_STATUS: _writes(legacy.status, sev.sev_user_data_status),
        sev.SEV_CMD_DF_FLUSH: Command(legacy.df_flush),
        sev.SEV_CMD_GET_ID: _writes(legacy.get_id, sev.sev_data_get_id),
        sev.SEV_CMD_PEK_GEN: Command(legacy.pek_gen),
        sev.SEV_CMD_PEK_CSR: _writes(legacy.pek_csr, sev.sev_data_pek_csr),
        sev.SEV_CMD_PEK_CERT_IMPORT: _reads(legacy.pek_cert_import, sev.sev_data_pek_cert_import),
        sev.SEV_CMD_PDH_CERT_EXPORT: _writes(legacy.pdh_cert_export, sev.sev_data_pdh_cert_export),
        sev.SEV_CMD_PDH_GEN: Command(legacy.pdh_gen),
        sev.SEV_CMD_DECOMMISSION: _reads(guest.decommission, sev.sev_data_decommission),
        sev.SEV_CMD_ACTIVATE: _reads(guest.activate, sev.sev_data_activate),
        sev.SEV_CMD_DEACTIVATE: _reads(guest.deactivate, sev.sev_data_deactivate),
        sev.SEV_CMD_GUEST_STATUS: _writes(guest.status, sev.sev_data_guest_status),
        sev.SEV_CMD_LAUNCH_START: _writes(launch.start, sev.sev_data_launch_start),
        sev.SEV_CMD_LAUNCH_UPDATE_DATA: _reads(launch.update_data, sev.sev_data_launch_update_data),
        sev.SEV_CMD_LAUNCH_UPDATE_VMSA: _reads(launch.update_vmsa, sev.sev_data_launch_update_vmsa),
        sev.SEV_CMD_LAUNCH_MEASURE: _writes(launch.measure, sev.sev_data_launch_measure),
        sev.SEV_CMD_LAUNCH_UPDATE_SECRET: _reads(launch.secret, sev.sev_data_launch_secret),
        sev.SEV_CMD_LAUNCH_FINISH: _reads(launch.finish, sev.sev_data_launch_finish),
        sev.SEV_CMD_ATTESTATION_REPORT: _writes(
            launch.attestation, sev.sev_data_attestation_report
        ),
        sev.SEV_CMD_SEND_START: _writes(move.send_start, sev.sev_data_send_start),
        sev.SEV_CMD_SEND_UPDATE_DATA: _writes(move.send_update_data, sev.sev_data_send_update_data),
        sev.SEV_CMD_SEND_UPDATE_VMSA: _writes(move.send_update_vmsa, sev.sev_data_send_update_data),
        sev.SEV_CMD_SEND_FINISH: _reads(move.send_finish, sev.sev_data_send_finish),
        sev.SEV_CMD_SEND_CANCEL: _reads(move.send_cancel, sev.sev_data_send_cancel),
        sev.SEV_CMD_RECEIVE_START: _writes(move.receive_start, sev.sev_data_receive_start),
        sev.SEV_CMD_RECEIVE_UPDATE_DATA: _reads(
            move.receive_update_data, sev.sev_data_receive_update_data
        ),
        sev.SEV_CMD_RECEIVE_UPDATE_VMSA: _reads(
            move.receive_update_vmsa, sev.sev_data_receive_update_data
        ),
        sev.SEV_CMD_RECEIVE_FINISH: _reads(move.receive_finish, sev.sev_data_receive_finish),
        sev.SEV_CMD_DBG_DECRYPT: _reads(debug.copy, sev.sev_data_dbg),
        sev.SEV_CMD_DBG_ENCRYPT: _reads(debug.copy, sev.sev_data_dbg),
    }
