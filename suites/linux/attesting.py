# SPDX-License-Identifier: GPL-2.0-only
"""Attestation as a guest's userspace does it: configfs tsm, and /dev/sev-guest."""

from __future__ import annotations

import base64
import re

from harness.kbuild.config import read_config
from harness.linuxguest.running import End, GuestError, How, RunningGuest
from harness.report import sanitize
from harness.vm.attestation import REPORT_SIZE, Report

TSM = "/sys/kernel/config/tsm/report"


def has_driver(config: str) -> bool:
    """Whether a kernel of this configuration has sev-guest, with tsm (6.7 and newer)."""
    values = read_config(config)
    return all(values.get(f"CONFIG_{each}", "n") != "n" for each in ("SEV_GUEST", "TSM_REPORTS"))


def report_of(guest: RunningGuest, data: bytes = bytes(64)) -> Report:
    """Ask the kernel's tsm for a report of 64 bytes of the guest's own."""
    text = base64.b64encode(data).decode()
    output = guest.shell(
        f"cd {TSM} && mkdir one && echo {text} | base64 -d > one/inblob && "
        "cat one/provider && base64 one/outblob; status=$?; rmdir one; exit $status"
    )
    provider, _, rest = output.partition("\n")
    if provider != "sev_guest":
        raise GuestError(f"the guest's tsm is {sanitize.line(provider, 40)}, want sev_guest")
    return Report.decode(base64.b64decode(rest)[:REPORT_SIZE])


def assert_ended(guest: RunningGuest, how: How) -> End:
    """Assert that a guest ends in one way; return its end."""
    end = guest.end()
    assert end.how is how, f"the guest {end}, want that it {how.value}"
    return end


def fields(output: str) -> dict[str, str]:
    """Read the lines `name: value` that guestreq prints."""
    return dict(re.findall(r"^([a-z_-]+): ?(.*?)\r?$", output, re.MULTILINE))
