# SPDX-License-Identifier: GPL-2.0-only
"""The SNP machine: a VMGEXIT as a guest on KVM sees it, and what other code pays for its patches.

For the second, QEMU of the same version and options without our patches is built (and kept);
both run the same kernel, `bench machine` taking turns: a boot, and a boot with a loop in it.
"""

from __future__ import annotations

import statistics
import struct
import sys
import time
from typing import Any

from harness import kbuild
from harness.errors import UserError
from harness.machine import build
from harness.machine.installed import MachineBuild
from harness.uapi.interfaces import MERGED
from harness.vm import layout
from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.mailbox import Command, Op
from harness.vng import snp
from harness.vng.boot import boot
from harness.vng.kinds import Machine
from harness.vng.machine import Setup
from harness.vng.shell import run_in
from harness.vng.snp import find_machine

ROUNDS = 4
TRIPS = 10_000
TRIP_ROUNDS = 5
TRIP_BAR_US = 100.0
OVERHEAD_BAR = 1.1
LOOP = "import hashlib\nx=b''\nfor i in range(1000000): x=hashlib.sha256(x).digest()"
TIMEOUT = 300.0

_CODE_GPA = layout.FREE_GPA
_CODE = bytes.fromhex(
    "b9300101c0"  # mov ecx, 0xc0010130: the GHCB MSR
    "0f32"  # rdmsr
    "4189c0"  # mov r8d, eax
    "4189d1"  # mov r9d, edx
    "4885ff"  # test rdi, rdi
    "7412"  # jz 2f
    "b802000000"  # 1: mov eax, 2: SEV information, which KVM answers itself
    "31d2"  # xor edx, edx
    "0f30"  # wrmsr
    "f30f01d9"  # rep vmmcall: VMGEXIT
    "48ffcf"  # dec rdi
    "75ee"  # jnz 1b
    "4489c0"  # 2: mov eax, r8d
    "4489ca"  # mov edx, r9d
    "0f30"  # wrmsr
    "31c0"  # xor eax, eax
    "c3"  # ret
)


def _kernel() -> kbuild.KernelBuild:
    """The kernel that was built last of those whose KVM has SNP."""
    known = [each for each in kbuild.list_kernels() if snp.supports(each)]
    if not known:
        raise UserError("no kernel with SNP is built", "snptest build")
    return max(known, key=lambda each: (each.directory / "kvm-amd.ko").stat().st_mtime)


def _seconds(guest: Guest, trips: int) -> float:
    """Have the guest do so many VMGEXITs in a loop of its own."""
    begin = time.perf_counter()
    (result,) = guest.cpu(0).run(
        [Command(Op.EXECUTE, (layout.private(_CODE_GPA), trips))], timeout=TIMEOUT
    )
    result.check()
    return time.perf_counter() - begin


def _round_trip(kernel: kbuild.KernelBuild) -> float:
    """Seconds for one more VMGEXIT: what a long loop takes beyond an empty one; median."""
    with (
        boot(kernel, machine=find_machine("snp")) as target,
        Guest.launch(Host(target, MERGED)) as guest,
    ):
        cpu = guest.cpu(0)
        cpu.boot()
        cpu.make_private(_CODE_GPA, layout.PAGE_SIZE)
        padded = _CODE + bytes(-len(_CODE) % 8)
        for number, (word,) in enumerate(struct.iter_unpack("<Q", padded)):
            cpu.store(_CODE_GPA + 8 * number, word).check()
        _seconds(guest, 100)
        rounds = [_seconds(guest, TRIPS) - _seconds(guest, 0) for _ in range(TRIP_ROUNDS)]
    return statistics.median(rounds) / TRIPS


def _plain(built: MachineBuild) -> Machine:
    """A PC without SNP, on a QEMU of ours."""
    # SeaBIOS spends half a minute on a drive without a medium that QEMU 10 adds.
    options = ("-nodefaults", "-L", str(built.firmware), "-cpu", "max,+svm")
    return Machine("stock", str(built.qemu), options, None)


def _timed(kernel: kbuild.KernelBuild, machine: Machine, code: str) -> float:
    """Seconds from power-on to power-off around a Python program."""
    setup = Setup(kernel.bzimage, machine, "1G", 2)
    begin = time.perf_counter()
    status = run_in(kernel, setup, [sys.executable, "-I", "-S", "-c", code], TIMEOUT)
    if status:
        raise RuntimeError(f"the program in the guest ended with {status}")
    return time.perf_counter() - begin


def run() -> list[dict[str, Any]]:
    """Measure both; of a boot and a loop the best round counts, for noise only ever adds."""
    patched, stock = build.build(), build.build(folder=None)
    kernel = _kernel()
    times: dict[str, list[float]] = {name: [] for name in ("boot", "loop")}
    stocks: dict[str, list[float]] = {name: [] for name in times}
    for _ in range(ROUNDS):
        for name, code in (("boot", "pass"), ("loop", LOOP)):
            stocks[name].append(_timed(kernel, _plain(stock), code))
            times[name].append(_timed(kernel, _plain(patched), code))
    ours = {name: min(values) for name, values in times.items()}
    theirs = {name: min(values) for name, values in stocks.items()}
    for figures in (ours, theirs):
        figures["loop"] -= figures["boot"]
    trip = _round_trip(kernel)
    about = f"{TRIPS} in a loop; Linux {kernel.release}, QEMU {patched.version}"
    return [
        {
            "name": "SNP machine: round trip of a VMGEXIT that KVM answers, seen by the guest",
            "ratio": round(trip * 1e6, 1),
            "bar": TRIP_BAR_US,
            "unit": "us",
            "detail": about,
        },
        *(
            {
                "name": f"{what} without SNP, against QEMU without the patches",
                "ratio": round(ours[name] / theirs[name], 3),
                "bar": OVERHEAD_BAR,
                "detail": f"{ours[name]:.2f} s against {theirs[name]:.2f} s",
            }
            for name, what in (("boot", "a boot"), ("loop", "a loop in Python and C"))
        ),
    ]
