# SPDX-License-Identifier: GPL-2.0-only
"""Pausing attestation while the host changes its TCB or certificates (v12, patches 28, 29)."""

from __future__ import annotations

import errno

from harness.emulator.kvm.errors import KvmError


class Attestation:
    """The transactions that bracket such a change; an extended guest request between is stale."""

    def __init__(self) -> None:
        self.paused = False
        self.transaction_id = 0

    def pause(self) -> int:
        """snp_pause_attestation: the id that the matching resume() is going to return."""
        if self.paused:
            raise KvmError(errno.EBUSY)
        self.paused = True
        return self.transaction_id + 1

    def resume(self) -> int:
        """snp_resume_attestation: succeeds always, so that an aborted change can be ended."""
        self.paused = False
        self.transaction_id += 1
        return self.transaction_id

    def is_stale(self, transaction_id: int) -> bool:
        """snp_transaction_is_stale: whether a request that began at this id must be retried."""
        return self.paused or transaction_id != self.transaction_id
