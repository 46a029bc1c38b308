# SPDX-License-Identifier: GPL-2.0-only
"""KVM's modules on a host, of a kernel that was built here: loaded, and loaded anew for a test.

While kvm_amd has other parameters than usual, a file beside the lock says so: whoever comes after a
run that was killed in the middle finds it, and loads the module anew.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from harness.errors import HostError
from harness.kernel import Kernel
from harness.operations import TargetError
from harness.ssh.hosts import Host
from harness.ssh.install import Installed, command, said

_KVM_AMD = "kvm_amd"


def load_modules(kernel: Kernel, host: Host, installed: Installed) -> None:
    """Load those that are not loaded as usual; HostError with what the kernel says."""
    changed = command(kernel, ["test", "-e", _note(host)]).status == 0
    if changed and _is_loaded(kernel, _KVM_AMD):
        _unload(kernel, host)
    for path in installed.modules:
        name = posixpath.basename(path).removesuffix(".ko").replace("-", "_")
        if not _is_loaded(kernel, name):
            _load(kernel, host, path)
    if changed:
        command(kernel, ["rm", "-f", _note(host)])


def reload_kvm_amd(
    kernel: Kernel, host: Host, installed: Installed, parameters: Sequence[str]
) -> None:
    """Load kvm_amd anew, with parameters as insmod takes them; without any, as usual.

    HostError where that fails and it is as before, TargetError where it is not.
    """
    if parameters:
        command(kernel, ["touch", _note(host)])
        _unload(kernel, host)
        try:
            _load(kernel, host, installed.kvm_amd, parameters)
        except HostError:
            load_modules(kernel, host, installed)
            raise
        return
    try:
        load_modules(kernel, host, installed)
    except HostError as error:
        # The kernel, or one of its VMs, keeps the module: the next test needs another boot.
        raise TargetError(error.message) from None


def _note(host: Host) -> str:
    return f"{host.lock}.parameters"


def _is_loaded(kernel: Kernel, name: str) -> bool:
    return command(kernel, ["test", "-d", f"/sys/module/{name}"]).status == 0


def _load(kernel: Kernel, host: Host, path: str, parameters: Sequence[str] = ()) -> None:
    done = command(kernel, ["insmod", path, *parameters])
    if done.status != 0:
        name = posixpath.basename(path).removesuffix(".ko").replace("-", "_")
        raise HostError(f"{host.name}: module {name} does not load: {said(done)}")


def _unload(kernel: Kernel, host: Host) -> None:
    done = command(kernel, ["rmmod", _KVM_AMD])
    if done.status != 0:
        raise HostError(
            f"{host.name}: module {_KVM_AMD} cannot be taken out: {said(done)}",
            "does somebody else run VMs there?",
        )
