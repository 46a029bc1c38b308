# SPDX-License-Identifier: GPL-2.0-only
"""Kernels booted on a remote host: a virtual machine that dies and comes back, as a box does."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import kbuild
from harness.deadline import deadline
from harness.errors import BootError
from harness.machine.installed import MachineBuild
from harness.report.outcome import Outcome
from harness.runner import Run
from harness.splats import find_splats
from harness.ssh import hosts
from harness.ssh.session import Session
from harness.vng.snp import find_machine
from tests import box as boxes
from tests import machines, runs
from tests.box import SEEN, Box
from tests.marks import real

pytestmark = real("builds and boots kernels", 900)

snp_machine = machines.snp_machine
BUILD_TIMEOUT = 3600.0
DATA = Path(__file__).parent / "data"
KEXEC = 'how = "kexec"'
ONE_SHOT = f'how = "one-shot", reboot = "reboot", command = "echo $SNPTEST_KERNEL > {SEEN}/next"'


def built(name: str, series: Path | None) -> kbuild.KernelBuild:
    with deadline(BUILD_TIMEOUT, f"building {name}"):
        return kbuild.build(name, "linux-source-6.12", series)


class Bench:
    """The host, and both kernels: built and booted by the first test that asks for them."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._patch = patch
        self._box: Box | None = None

    def box(self, boot: str, **values: str) -> Box:
        """The host, on its old kernel or the one under test, and how to boot another there."""
        if self._box is None:
            self.old = built("selftest-box", None)
            self.new = built("selftest-box-new", DATA / "series-box")
            assert self.old.build_id != self.new.build_id
            assert self.old.release == self.new.release
            self._box = boxes.make(self._folder, self._patch, self.old)
            self._box.get_kexec()
            self._box.start()
        self._box.write_hosts(boot, **values)
        self._box.wait()
        return self._box

    def stop(self) -> None:
        if self._box is not None:
            self._box.stop()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        made = Bench(tmp_path_factory.mktemp("box"), patch)
        yield made
        made.stop()


def test_a_kernel_that_panics_at_boot(bench: Bench) -> None:
    """The host resets itself into the kernel that is always there."""
    box = bench.box(KEXEC + ', parameters = "panic=1 init=/none"')
    session = Session(hosts.get("box"), bench.new)
    with pytest.raises(BootError, match=r"came back with the one before.*panic: .*init /none fail"):
        session.open()
    session.close()
    assert box.boots == [bench.old.build_id] * 2


def test_a_host_that_stays_away_is_power_cycled(bench: Bench) -> None:
    box = bench.box(KEXEC)
    power_cycle = f'"{box.power_cycle}"'
    away = KEXEC + ', parameters = "panic=0 init=/none"'
    box = bench.box(away, boot_timeout="40", power_cycle=power_cycle)
    before = len(box.boots)
    session = Session(hosts.get("box"), bench.new)
    with pytest.raises(BootError, match=r"init /none.*did not come up within \d+ s; power-cycled"):
        session.open()
    session.close()
    box.wait(before + 1)
    assert box.boots[before:] == [bench.old.build_id]


def test_one_shot(bench: Bench) -> None:
    """The old kernel is the boot loader, too: so it is seen to come up first."""
    box = bench.box(ONE_SHOT)
    before = len(box.boots)
    session = Session(hosts.get("box"), bench.new)
    with session.open() as kernel:
        assert session.boot is not None
        assert session.boot.build_id == bench.new.build_id
        assert kernel.symbols is not None
        kernel.close(kernel.open("/dev/kvm"))
    session.close()
    assert box.boots[before:] == [bench.old.build_id, bench.new.build_id]


SUITE = """
    from harness.operations import WriteFile

    def test_before(kernel):
        kernel.close(kernel.open("/dev/kvm"))

    def test_deadly(kernel):
        kernel.call(WriteFile("/proc/sysrq-trigger", b"c"), timeout=60)

    def test_after(kernel):
        assert "snptest.mark=1" in kernel.read_file("/proc/cmdline")
        kernel.close(kernel.open("/dev/kvm"))
"""


def run(box: Box, kernel: kbuild.KernelBuild, *tests: str) -> Run:
    """Run tests on the box by the plugin and the runner, as `snptest run` does."""
    folder = box.keys.folder
    (folder / "conftest.py").write_text("pytest_plugins = ('harness.plugin',)\n")
    (folder / "pytest.ini").write_text("[pytest]\n")
    where = [f"--rootdir={folder}", f"--config-file={folder / 'pytest.ini'}"]
    options = ["-p", "no:cacheprovider", "--backend=ssh", "--host=box", f"--kernel={kernel.name}"]
    made = Run([*where, *options, *tests, "-n1"], folder / "run", silence=400)
    made.execute(lambda event: None)
    return made


def test_a_run_survives_the_death_of_its_kernel(bench: Bench) -> None:
    """The test that killed it is a crash; the kernel is booted again, by kexec, for the next."""
    box = bench.box(KEXEC + ', parameters = "snptest.mark=1 panic=1"')
    before = len(box.boots)
    path = box.keys.folder / "test_small.py"
    path.write_text(textwrap.dedent(SUITE))
    done = run(box, bench.new, str(path))
    assert not done.broken, done.broken
    results = {each.id.rpartition("::")[2].partition("[")[0]: each for each in done.results}
    assert results["test_before"].outcome is Outcome.PASS, results
    deadly = results["test_deadly"]
    assert deadly.outcome is Outcome.CRASH
    assert deadly.reason.startswith("panic: sysrq triggered crash; the host was back")
    assert "sysrq triggered crash" in deadly.console
    assert "Linux version" not in deadly.console, "that is of the next boot"
    assert results["test_after"].outcome is Outcome.PASS, results
    old, new = bench.old.build_id, bench.new.build_id
    assert box.boots[-2:] == [old, new], "a reset brings the old one back"
    assert len(box.boots) in (before + 2, before + 3)  # it ran already, or was booted first


SOME = (
    *("test_two_files", "test_hole_costs_no_wbinvd", "deleted_slot"),
    *("test_snp_off", "test_sev_off", "test_snp_on"),
)


def test_suites_run_on_a_box_that_has_snp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snp_machine: MachineBuild
) -> None:
    """Two kernels in turn, as a bisection has them: the second finds SNP as the first left it."""
    old, new = built("selftest-box", None), built("selftest-box-new", DATA / "series-box")
    box = boxes.make(tmp_path, monkeypatch, old, find_machine("snp"))
    box.get_kexec()
    box.start()
    try:
        box.write_hosts(KEXEC)
        box.wait()
        for kernel in (new, old):
            folder = tmp_path / kernel.name
            folder.mkdir()
            done = runs.run(
                *("gmem", "launch", "-k", " or ".join(SOME)),
                *("--backend", "ssh", "--host", "box", "--kernel", kernel.name),
                folder=folder,
                timeout=400,
                SNPTEST_HISTORY="",
            )
            assert done.code == 0, done.text
            outcomes = {each["id"].rpartition("::")[2]: each["outcome"] for each in done.results}
            assert outcomes["test_two_files[ssh]"] == "pass"
            assert outcomes["test_deleted_slot_is_gone[ssh]"] == "pass"
            # These have kvm_amd loaded anew, and as before for the next one.
            assert outcomes["test_snp_off[ssh]"] == outcomes["test_sev_off[ssh]"] == "pass"
            assert outcomes["test_snp_on[ssh]"] == "pass"
            # The counters are QEMU's: a host that is reached by ssh alone has none.
            assert outcomes["test_hole_costs_no_wbinvd[ssh]"] == "skip"
    finally:
        box.stop()
    assert box.boots == [old.build_id, new.build_id, old.build_id]
    console = box.console.read_text(errors="replace")
    # By each kernel once at first, and after each of two tests.
    assert console.count("kvm_amd: SEV-SNP enabled") == 2 * 3, console
    assert console.count("kvm_amd: SEV-SNP disabled") == 2 * 2, console
    assert find_splats(console) == []
