# SPDX-License-Identifier: GPL-2.0-only
"""A tree that builds like a kernel, in a tenth of a second: for tests of harness.kbuild."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from harness.kbuild.kernel import KernelBuild

MAKEFILE = """\
VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 7

modules = kvm kvm-amd lkdtm
kos = $(modules:%=$(O)/%.ko)

allnoconfig:
\t@cp $(KCONFIG_ALLCONFIG) $(O)/.config
bzImage: $(O)/vmlinux
\t@mkdir -p $(O)/arch/x86/boot $(O)/include/config
\t@cp $< $(O)/arch/x86/boot/bzImage
\t@touch $(O)/System.map
\t@echo 6.12.7-fake > $(O)/include/config/kernel.release
ifdef M
modules: $(patsubst %.c,%.ko,$(wildcard $(M)/*.c))
$(M)/%.ko: $(M)/%.c
\t@$(CC) -g -Iinclude -c -o $@ drivers/kvm.c
else
modules: $(kos)
\t@printf '%s.o\\n' kvm-amd lkdtm kvm > $(O)/modules.order
endif
$(O)/vmlinux: init/main.c
\t@echo '  LD      vmlinux'
\t@$(CC) -g -c -o $@ $<
$(O)/%.ko: drivers/%.c include/kvm.h
\t@echo '  LD [M]  $*.ko'
\t@$(CC) -g -Iinclude -c -o $@ $<
\t@echo 'deps_$*.ko := $(CURDIR)/$< $(CURDIR)/include/kvm.h' > $(O)/.$*.o.cmd
"""
MODULE = """\
#include "kvm.h"
static const char info[] __attribute__((section(".modinfo"), used)) = "\\0depends=%s";
int %s(int a)
{
\treturn a + KVM;
}
"""


def kernel_build(directory: Path, **fields: Any) -> KernelBuild:
    """Return a kernel as if it had been built into a folder."""
    known: dict[str, Any] = {
        "name": "fake",
        "key": "0" * 20,
        "base": "base",
        "series": (),
        "fragments": (),
        "release": "6.12.0",
        "version": (6, 12, 0),
        "tree": "0" * 40,
        "commit": "0" * 40,
        "compiler": "",
        "modules": (),
        "extra_modules": (),
        "source": None,
        "seconds": 0.0,
        "created": "",
    }
    return KernelBuild(**(known | fields), directory=directory)


def write_tree(path: Path) -> Path:
    """Write the tree into a directory; return it."""
    files = {
        "Makefile": MAKEFILE,
        "Kconfig": "# all symbols take\n",
        ".gitignore": "*.o\n/vmlinux\n# Debian's\n/*\n!/debian/\n",
        "include/kvm.h": "#define KVM 1\n",
        "init/main.c": "int start_kernel(void) { return 0; }\n",
        "drivers/kvm.c": MODULE % ("", "kvm"),
        "drivers/kvm-amd.c": MODULE % ("kvm", "kvm_amd"),
        "drivers/lkdtm.c": MODULE % ("", "lkdtm"),
        "scripts/decode_stacktrace.sh": "#!/bin/sh\ncat\n",
    }
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (path / "scripts/decode_stacktrace.sh").chmod(0o755)
    return path


def git(path: Path, *arguments: str) -> str:
    """Run git in a directory, as somebody; return what it printed."""
    identity = ["-c", "user.name=A Developer", "-c", "user.email=developer@example.org"]
    done = subprocess.run(
        ["git", *identity, "-c", "init.defaultBranch=main", *arguments],
        cwd=path,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
