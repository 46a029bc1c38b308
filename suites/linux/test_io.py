# SPDX-License-Identifier: GPL-2.0-only
"""A guest's devices: virtio by way of swiotlb, whose pages are shared with the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness.kernel import Kernel
from harness.linuxguest.parts import Parts
from harness.linuxguest.running import RunningGuest
from suites.linux.attesting import fields
from suites.linux.conftest import BOOT_DEADLINE
from suites.linux.test_boot import is_free_of_splats

pytestmark = [
    pytest.mark.patches(15, 16, 21, 22),
    pytest.mark.areas("page state changes", "whole guests"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(BOOT_DEADLINE),
]

Start = Callable[..., RunningGuest]
DISK = 32
"""MiB of the guest's disk, which lies in the host's memory."""
ZEROS = "58f06dd588d8ffb3beb46ada6309436b"
"""MD5 of 32 MiB of zeros."""
VIRTIO = "iommu_platform=on,disable-legacy=on"
"""What a driver needs to use the DMA API, and so swiotlb."""
SHARED = "/run/snptest-shared"
"""The host's folder that a guest sees by 9p."""
FILE = 4
"""MiB that go over the network, or a file system of the host."""
COMMAND_TIMEOUT = 300.0

NETWORK = f"""
cd /tmp && mkdir net && head -c {FILE << 20} /dev/urandom > net/data && md5sum < net/data
unshare -n sleep {COMMAND_TIMEOUT:.0f} & other=$!
sleep 1
ip link set eth1 netns $other
ip addr add 10.77.0.1/24 dev eth0 && ip link set eth0 up
nsenter -t $other -n ip addr add 10.77.0.2/24 dev eth1
nsenter -t $other -n ip link set eth1 up
nsenter -t $other -n httpd -p 10.77.0.2:8000 -h /tmp/net
wget -q -O - http://10.77.0.2:8000/data | md5sum
cat /sys/class/net/eth0/statistics/rx_bytes
kill $other
"""
"""Fetch a file from another network namespace, whose only way there is the other device."""

FILES = """
mkdir /tmp/shared && mount -t 9p -o trans=virtio,version=9p2000.L,msize=131072 shared /tmp/shared &&
cd /tmp/shared && md5sum < data && head -c 1000000 data > part && cd / && umount /tmp/shared
"""


def test_disk(start: Start) -> None:
    """A disk over virtio is read through swiotlb, while memory is short."""
    guest = start(
        vcpus=2,
        devices=(
            *("-blockdev", f"driver=null-co,node-name=disk,size={DISK << 20},read-zeroes=on"),
            *("-device", f"virtio-blk-pci,drive=disk,{VIRTIO}"),
        ),
    ).userspace()
    output = guest.shell(
        f"guestreq memory 100 5 > /tmp/memory & dd if=/dev/vda bs=256k count={DISK * 4} 2>/dev/null"
        " | md5sum; wait; cat /tmp/memory",
        COMMAND_TIMEOUT,
    )
    digest = output.split()[0]
    assert digest == ZEROS, f"MD5 of the disk: {digest}, want {ZEROS}"
    wrong = fields(output)["wrong"]
    assert wrong == "0", f"words that differ: {wrong}, want none"
    is_free_of_splats(guest)


def test_network(start: Start) -> None:
    """What one network device sends arrives at another as it was."""
    guest = start(
        devices=tuple(
            word
            for number in range(2)
            for word in (
                *("-netdev", f"hubport,id=net{number},hubid=0"),
                *("-device", f"virtio-net-pci,netdev=net{number},romfile=,{VIRTIO}"),
            )
        )
    ).userspace()
    sent, _, received, _, through, *_ = guest.shell(NETWORK, COMMAND_TIMEOUT).split()
    assert received == sent, f"MD5 received: {received}, want {sent}"
    assert int(through) > FILE << 20, f"bytes that came in by eth0: {through}, want {FILE} MiB"
    is_free_of_splats(guest)


@pytest.fixture
def shared(kernel: Kernel) -> Iterator[str]:
    """A folder of the host with a file `data`; the fixture's value is the file's MD5."""

    def run(script: str) -> str:
        done = kernel.run_program(["sh", "-c", script], 60.0)
        assert done.status == 0, f"{script}: {done.failure or done.output!r}, want success"
        return done.output.decode()

    yield run(
        f"mkdir -p {SHARED} && cd {SHARED} && head -c {FILE << 20} /dev/urandom > data"
        " && md5sum < data"
    ).split()[0]
    run(f"rm -r {SHARED}")


def test_files_of_the_host(start: Start, kernel: Kernel, linux_parts: Parts, shared: str) -> None:
    """Files of the host are read and written by 9p."""
    if "9p" in linux_parts.selection.missing:
        release = linux_parts.kernel.release
        pytest.skip(f"the guest's kernel {release} has no 9p: --guest-kernel 6.12-full")
    guest = start(
        devices=(
            *("-fsdev", f"local,id=shared,path={SHARED},security_model=none"),
            *("-device", f"virtio-9p-pci,fsdev=shared,mount_tag=shared,{VIRTIO}"),
        )
    ).userspace()
    digest = guest.shell(FILES, COMMAND_TIMEOUT).split()[0]
    assert digest == shared, f"MD5 of the shared files: {digest}, want {shared}"
    compared = kernel.run_program(["cmp", "-n", "1000000", f"{SHARED}/data", f"{SHARED}/part"], 60)
    assert compared.status == 0, f"cmp of what was written: {compared.output!r}, want no difference"
    size = kernel.run_program(["stat", "-c", "%s", f"{SHARED}/part"], 60).output
    assert size.strip() == b"1000000", f"size of what was written: {size!r}, want 1000000"
    is_free_of_splats(guest)
