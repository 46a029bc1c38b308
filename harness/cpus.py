# SPDX-License-Identifier: GPL-2.0-only
"""How many processors are there for us: what a container's quota leaves, not what the host has.

With `docker run --cpus=2` on a host of 64, sched_getaffinity(2) says 64; so many workers share two
processors' time, and tests pass their deadlines.  Sources: cgroups(7), the kernel's
Documentation/admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst (cpu.cfs_quota_us).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")


def usable(proc: Path = PROC) -> int:
    """Return how many processors this process may use at once: 1 or more."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # no /proc, no cgroups: no quota
        return max(1, min(cores, *(math.ceil(each) for each in quotas(proc)), cores))
    return cores


def quotas(proc: Path = PROC) -> Iterator[float]:
    """Yield the processors' time that each of our control groups, and those above, may take.

    OSError, ValueError: /proc does not say where they are.
    """
    groups = dict(_groups((proc / "cgroup").read_text()))
    for kind, root, mount in _mounts((proc / "mountinfo").read_text()):
        if kind not in groups:
            continue
        own = PurePosixPath(groups[kind])
        # In a container the mount shows a part of the hierarchy, at its top.
        inside = own.relative_to(root) if own.is_relative_to(root) else PurePosixPath()
        for level in (inside, *inside.parents):
            quota = _quota(mount / level)
            if quota is not None:
                yield quota


def _groups(text: str) -> Iterator[tuple[str, str]]:
    """Yield the hierarchy's kind and our group in it: of version 2, and version 1's cpu."""
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            yield "cgroup", path
        elif number == "0" and not controllers:
            yield "cgroup2", path


def _mounts(text: str) -> Iterator[tuple[str, str, Path]]:
    """Yield kind, root and mount point of the hierarchies that may have a quota."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        root, mount = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(",")):
            yield kind, root, Path(mount)


def _quota(group: Path) -> float | None:
    """Read a group's quota in processors; None where it has none."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
