# SPDX-License-Identifier: GPL-2.0-only
"""How many processors a container leaves us, with /proc and control groups as files of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cpus

V2 = "30 23 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 26 0:30 {root} {mount} rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = (
    "34 26 0:31 / {mount}-memory rw - cgroup cgroup rw,memory\n25 1 8:1 / / rw - ext4 /dev/sda rw\n"
)


def machine(tmp_path: Path, mounts: str, groups: str, files: dict[str, str]) -> Path:
    """Write a /proc/self and its hierarchy; return the former."""
    proc, mount = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    (proc / "mountinfo").write_text((OTHER + mounts).replace("{mount}", str(mount)))
    for name, content in files.items():
        path = mount / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return proc


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "expected"),
    [
        pytest.param(V2, "0::/", {"cpu.max": "150000 100000\n"}, 2, id="docker"),
        pytest.param(V2, "0::/", {"cpu.max": "max 100000\n"}, 64, id="no limit"),
        pytest.param(V2, "0::/", {}, 64, id="a host's root"),
        pytest.param(
            V2,
            "0::/ci.slice/job",
            {"ci.slice/cpu.max": "400000 100000", "ci.slice/job/cpu.max": "800000 100000"},
            4,
            id="the group above has less",
        ),
        pytest.param(V2, "0::/", {"cpu.max": "1000 100000"}, 1, id="a share of one"),
        pytest.param(
            V1.replace("{root}", "/docker/1"),
            "4:cpu,cpuacct:/docker/1\n3:memory:/docker/1\n0::/\n",
            {"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"},
            3,
            id="version 1",
        ),
        pytest.param(
            V1, "4:cpu,cpuacct:/\n", {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "1"}, 64
        ),
        pytest.param(V2, "0::/", {"cpu.max": "what\n"}, 64, id="damaged"),
        pytest.param("", "no such format", {}, 64, id="nothing known"),
    ],
)
def test_a_quota_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mounts: str,
    groups: str,
    files: dict[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    proc = machine(tmp_path, mounts.replace("{root}", "/"), groups, files)
    assert cpus.usable(proc) == expected


def test_no_proc_is_no_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 3})
    assert cpus.usable(tmp_path / "gone") == 2
