# SPDX-License-Identifier: GPL-2.0-only
"""The backends by name, imported only when asked for."""

from __future__ import annotations

import importlib

from harness.backends.base import Backend
from harness.errors import UsageError
from harness.kernel import Kernel
from harness.target import Target

__all__ = ["BACKENDS", "Backend", "get", "open"]

BACKENDS = {
    "emulator": "harness.backends.emulator:EmulatorBackend",
    "local": "harness.backends.local:LocalBackend",
    "ssh": "harness.backends.ssh:SshBackend",
    "vng": "harness.backends.vng:VngBackend",
}
"""Name on the command line, and module:class that implements it."""


def get(name: str) -> Backend:
    """Make the backend of that name; UsageError where there is none."""
    if name not in BACKENDS:
        raise UsageError(f"no backend is called {name!r}", f"use one of: {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UsageError(f"the {name} backend is not part of this tree yet") from error
    backend = factory()
    assert isinstance(backend, Backend)
    return backend


def open(target: Target) -> Kernel:
    """Open a kernel of a target: as `Backend.open`, for those who want one and no other."""
    return get(target.backend).open(target)
