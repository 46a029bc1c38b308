# SPDX-License-Identifier: GPL-2.0-only
"""kvm_amd loaded anew on a host for a test, and as usual after it, whatever happens in between."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import pytest

from harness.errors import HostError
from harness.kernel import Kernel
from harness.operations import Completed, Op, Result, TargetError, Ticket
from harness.ssh.hosts import Host
from harness.ssh.install import Installed
from harness.ssh.modules import load_modules, reload_kvm_amd

HOST = Host(name="box", address="box.example.org")
INSTALLED = Installed("/f", "/f/bzImage", "/f/initrd", ("/f/kvm.ko", "/f/kvm-amd.ko"))
USUAL = {"kvm": "", "kvm_amd": ""}


class Programs(Kernel):
    """A host of which there are only modules, with their parameters, and files."""

    name = "box"

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.files: set[str] = set()
        self.refused: set[str] = set()
        """Programs, or programs with a parameter, that fail."""
        self.ran: list[str] = []

    def run_program(self, argv: Sequence[str], timeout: float = 0.0, limit: int = 0) -> Completed:
        words = shlex.split(argv[2].partition("; exec ")[2])
        self.ran.append(words[0])
        if words[0] in self.refused or words[-1] in self.refused:
            return Completed(1, b"refused", 0)
        match words:
            case ["test", "-e", path]:
                return Completed(int(path not in self.files), b"", 0)
            case ["test", "-d", path]:
                return Completed(int(path.rpartition("/")[2] not in self.loaded), b"", 0)
            case ["touch", path]:
                self.files.add(path)
            case ["rm", "-f", path]:
                self.files.discard(path)
            case ["rmmod", name]:
                del self.loaded[name]
            case ["insmod", path, *parameters]:
                name = path.rpartition("/")[2].removesuffix(".ko").replace("-", "_")
                assert name not in self.loaded
                self.loaded[name] = " ".join(parameters)
            case _:
                raise AssertionError(words)
        return Completed(0, b"", 0)

    def start(self, ops: Sequence[Op], *, thread: int = 0) -> Ticket:
        raise NotImplementedError

    def wait(self, ticket: Ticket, timeout: float = 0.0) -> list[Result]:
        raise NotImplementedError

    def wait_any(self, tickets: Any, timeout: float = 0.0) -> Any:
        raise NotImplementedError

    def interrupt(self, thread: int) -> None:
        raise NotImplementedError

    def log(self) -> str:
        return ""

    def shutdown(self) -> None:
        return


@pytest.fixture
def kernel() -> Programs:
    made = Programs()
    load_modules(made, HOST, INSTALLED)
    assert made.loaded == USUAL
    return made


def test_what_is_loaded_stays(kernel: Programs) -> None:
    kernel.ran.clear()
    load_modules(kernel, HOST, INSTALLED)
    assert set(kernel.ran) == {"test"}


def test_there_and_back(kernel: Programs) -> None:
    reload_kvm_amd(kernel, HOST, INSTALLED, ["sev_snp=0", "sev_es=0"])
    assert kernel.loaded == {"kvm": "", "kvm_amd": "sev_snp=0 sev_es=0"}
    reload_kvm_amd(kernel, HOST, INSTALLED, ())
    assert (kernel.loaded, kernel.files) == (USUAL, set())


def test_what_a_killed_run_left_is_put_right(kernel: Programs) -> None:
    reload_kvm_amd(kernel, HOST, INSTALLED, ["sev_snp=0"])
    load_modules(kernel, HOST, INSTALLED)
    assert (kernel.loaded, kernel.files) == (USUAL, set())


def test_a_run_that_was_killed_between_the_two(kernel: Programs) -> None:
    reload_kvm_amd(kernel, HOST, INSTALLED, ["sev_snp=0"])
    del kernel.loaded["kvm_amd"]
    load_modules(kernel, HOST, INSTALLED)
    assert (kernel.loaded, kernel.files) == (USUAL, set())


def test_a_module_in_use_stays_as_it_is(kernel: Programs) -> None:
    kernel.refused.add("rmmod")
    with pytest.raises(HostError, match="kvm_amd cannot be taken out: status 1: refused"):
        reload_kvm_amd(kernel, HOST, INSTALLED, ["sev_snp=0"])
    assert kernel.loaded == USUAL


def test_parameters_that_the_module_refuses(kernel: Programs) -> None:
    kernel.refused.add("sev_snp=2")
    with pytest.raises(HostError, match="kvm_amd does not load"):
        reload_kvm_amd(kernel, HOST, INSTALLED, ["sev_snp=2"])
    assert (kernel.loaded, kernel.files) == (USUAL, set())


def test_no_way_back_is_the_kernels_end(kernel: Programs) -> None:
    reload_kvm_amd(kernel, HOST, INSTALLED, ["sev_snp=0"])
    kernel.refused.add("rmmod")
    with pytest.raises(TargetError, match="cannot be taken out"):
        reload_kvm_amd(kernel, HOST, INSTALLED, ())
    kernel.refused.clear()
    load_modules(kernel, HOST, INSTALLED)
    assert (kernel.loaded, kernel.files) == (USUAL, set())
