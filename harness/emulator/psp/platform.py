# SPDX-License-Identifier: GPL-2.0-only
"""The platform: initialisation and shutdown of SNP and of SEV, status, configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from harness.emulator.psp.guest_context import Guests
from harness.emulator.psp.iommu import IommuRegisters
from harness.emulator.psp.keys import Secrets
from harness.emulator.psp.pages import FIRMWARE_PAGE, Pages
from harness.emulator.psp.policy import PlatformFeatures
from harness.emulator.psp.sev_identity import Identity
from harness.emulator.psp.status import require
from harness.emulator.psp.tcb import RESERVED, Tcb
from harness.uapi import psp_newer as newer
from harness.uapi import sev
from harness.uapi.errors import SevFwError

Version = tuple[int, int, int]
"""API major, API minor, build."""

CURRENT_TCB = Tcb(boot_loader=4, tee=0, snp=22, microcode=213)
"""Linux 7 offers SEV-ES guests beside SNP only below SNP firmware 0x1b (sev_firmware_allows_es)."""


@dataclass
class Platform:
    """What the firmware remembers of the machine as a whole."""

    version: Version
    secrets: Secrets
    features: PlatformFeatures = field(default_factory=PlatformFeatures)
    snp_initialized: bool = False
    rmp_initialized: bool = False
    tcb: Tcb = CURRENT_TCB
    committed_tcb: Tcb = CURRENT_TCB
    committed_version: Version = (0, 0, 0)
    configured_tcb: Tcb | None = None
    mask_chip_id: bool = False
    mask_chip_key: bool = False
    vlek: bytes | None = None
    vlek_tcb: Tcb = field(default_factory=Tcb)
    sev_state: int = sev.SEV_STATE_UNINIT
    sev_es: bool = False
    verified_mitigations: int = 0
    iommu: IommuRegisters = field(default_factory=IommuRegisters)
    """As the hardware shows them now; the emulator in process has no IOMMU."""
    iommu_pages: list[range] = field(default_factory=list)
    """Pages that the firmware has taken from the host for the IOMMU to write to."""

    def __post_init__(self) -> None:
        self.committed_version = self.version
        self.chip_id = self.secrets.derive("chip id", 64)
        self.identity = Identity(self.secrets, self.version)

    @property
    def reported_tcb(self) -> Tcb:
        """The TCB that reports name and that their key is bound to."""
        return self.configured_tcb or self.tcb

    def require_sev(self, *states: int) -> None:
        """Refuse a command of plain SEV in any other state of the platform."""
        good = self.sev_state in states
        require(good, SevFwError.INVALID_PLATFORM_STATE, f"SEV is in state {self.sev_state}")


class PlatformCommands:
    """SNP_INIT(_EX), SNP_SHUTDOWN(_EX), SNP_PLATFORM_STATUS, SNP_CONFIG, SNP_COMMIT, DF_FLUSH."""

    def __init__(self, platform: Platform, guests: Guests, pages: Pages) -> None:
        self._platform, self._guests, self._pages = platform, guests, pages

    # -- initialisation --------------------------------------------------------------------

    def init(self, _buffer: bytes) -> None:
        """SNP_INIT: as SNP_INIT_EX that initialises the RMP, without a list."""
        self._init(True, [])

    def init_ex(self, buffer: bytes) -> None:
        """SNP_INIT_EX."""
        data = newer.sev_data_snp_init_ex.from_bytes(buffer)
        reserved = data.rsvd or data.rsvd1 or any(bytes(data.rsvd2))
        self._require_uninit()
        require(not reserved, SevFwError.INVALID_PARAM, "reserved bits")
        features = self._features(data)
        ranges = self._pages.range_list(data.list_paddr) if data.list_paddr_en else []
        snp_limit = data.max_snp_asid if data.ciphertext_hiding_en else None
        self._guests.asids.check_snp_limit(snp_limit)
        self._init(bool(data.init_rmp), ranges)
        self._platform.features, self._guests.asids.snp_limit = features, snp_limit

    def _features(self, data: newer.sev_data_snp_init_ex) -> PlatformFeatures:
        """What the host asks for; INVALID_PARAM where this firmware has no such thing."""
        features = self._platform.features
        rapl, hiding = bool(data.rapl_dis), bool(data.ciphertext_hiding_en)
        require(features.can_disable_rapl or not rapl, SevFwError.INVALID_PARAM, "RAPL_DIS")
        able = features.can_hide_ciphertext
        require(able or not hiding, SevFwError.INVALID_PARAM, "CIPHERTEXT_HIDING_EN")
        require(hiding or not data.max_snp_asid, SevFwError.INVALID_PARAM, "MAX_SNP_ASID")
        require(not data.tio_en, SevFwError.INVALID_PARAM, "SEV-TIO is not modelled")
        if not features.can_disable_rapl:
            rapl = features.rapl_disabled
        if not able:
            hiding = features.ciphertext_hiding
        return replace(features, rapl_disabled=rapl, ciphertext_hiding=hiding)

    def _require_uninit(self) -> None:
        platform = self._platform
        require(
            not platform.snp_initialized and platform.sev_state == sev.SEV_STATE_UNINIT,
            SevFwError.INVALID_PLATFORM_STATE,
            "already initialised",
        )

    def _init(self, init_rmp: bool, ranges: list[tuple[int, int]]) -> None:
        self._require_uninit()
        platform, pages = self._platform, self._pages
        if init_rmp:
            pages.rmp.reset()
            self._guests.clear()
        else:
            require(platform.rmp_initialized, SevFwError.RMP_INIT_REQUIRED, "no RMP")
        pages.rmp.fill_own(FIRMWARE_PAGE)
        pages.fix(ranges)
        platform.iommu_pages = pages.claim(platform.iommu.ranges())
        self._guests.asids.distrust()
        platform.rmp_initialized = platform.snp_initialized = pages.enforce = True

    def shutdown(self, _buffer: bytes) -> None:
        """SNP_SHUTDOWN."""
        self._shutdown()

    def shutdown_ex(self, buffer: bytes) -> None:
        """SNP_SHUTDOWN_EX; IOMMU_SNP_SHUTDOWN gives the IOMMU's buffers back."""
        platform, data = self._platform, newer.sev_data_snp_shutdown_ex.from_bytes(buffer)
        require(data.len >= len(buffer), SevFwError.INVALID_LEN, f"length {data.len}")
        known = platform.features.x86_shutdown or not data.x86_snp_shutdown
        require(known and not data.rsvd1, SevFwError.INVALID_PARAM, "reserved bits")
        self._shutdown()
        if data.x86_snp_shutdown:
            # No RMP any more: no page has a state, and the next SNP_INIT needs a new one.
            self._guests.clear()
            self._pages.rmp.reset()
            platform.rmp_initialized, platform.iommu_pages = False, []
        elif data.iommu_snp_shutdown:
            self._pages.release(platform.iommu_pages)
            platform.iommu_pages = []

    def _shutdown(self) -> None:
        """The kernel answers DFFLUSH_REQUIRED with a flush and a second try (sev-dev.c, 6.12).

        An ASID in use cannot be flushed, so that a platform with active guests stays up.
        """
        asids = self._guests.asids
        require(
            self._platform.sev_state == sev.SEV_STATE_UNINIT,
            SevFwError.INVALID_PLATFORM_STATE,
            "SEV is still initialised",
        )
        dirty = bool(asids.owners or asids.unflushed)
        require(not dirty, SevFwError.DFFLUSH_REQUIRED, "ASIDs in use or not flushed")
        self._platform.snp_initialized = self._pages.enforce = False

    def df_flush(self, _buffer: bytes) -> None:
        """SNP_DF_FLUSH: as DF_FLUSH, for guests of every kind."""
        self._guests.asids.flush()

    # -- status and configuration ----------------------------------------------------------

    def status(self, buffer: bytes) -> None:
        """SNP_PLATFORM_STATUS.

        Any alignment will do: Linux 7.3 passes a member of a packed structure
        (snp_get_platform_data() in drivers/crypto/ccp/sev-dev.c).
        """
        address = sev.sev_data_snp_addr.from_bytes(buffer).address
        platform = self._platform
        major, minor, build = platform.version
        features = platform.features
        answer = newer.sev_user_data_snp_status(
            api_major=major,
            api_minor=minor,
            state=int(platform.snp_initialized),
            is_rmp_initialized=platform.rmp_initialized,
            build_id=build,
            mask_chip_id=platform.mask_chip_id,
            mask_chip_key=platform.mask_chip_key,
            vlek_en=platform.vlek is not None,
            feature_info=features.feature_info,
            rapl_dis=features.rapl_disabled,
            ciphertext_hiding_cap=features.can_hide_ciphertext,
            ciphertext_hiding_en=features.ciphertext_hiding,
            guest_count=len(self._guests),
            current_tcb_version=platform.tcb.value,
            reported_tcb_version=platform.reported_tcb.value,
        )
        raw = bytes(answer)
        self._pages.memory.write(self._pages.output(address, len(raw), align=1), raw)

    def config(self, buffer: bytes) -> None:
        """SNP_CONFIG: a reported TCB of zero means the current one."""
        data = sev.sev_user_data_snp_config.from_bytes(buffer)
        reserved = data.rsvd or any(bytes(data.rsvd1)) or data.reported_tcb & RESERVED
        require(not reserved, SevFwError.INVALID_PARAM, "reserved bits")
        wanted = Tcb.decode(data.reported_tcb) if data.reported_tcb else None
        platform = self._platform
        if wanted is not None:
            good = wanted.within(platform.committed_tcb)
            require(good, SevFwError.INVALID_PARAM, "TCB beyond the committed one")
        platform.configured_tcb = wanted
        platform.mask_chip_id = bool(data.mask_chip_id)
        platform.mask_chip_key = bool(data.mask_chip_key)

    def commit(self, buffer: bytes) -> None:
        """SNP_COMMIT: no way back to older firmware."""
        length = sev.sev_data_snp_commit.from_bytes(buffer).len
        require(length >= len(buffer), SevFwError.INVALID_LEN, f"length {length}")
        self._platform.committed_tcb = self._platform.tcb
        self._platform.committed_version = self._platform.version
