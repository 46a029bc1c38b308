# SPDX-License-Identifier: GPL-2.0-only
"""Asks a C compiler what a kernel source tree says about our structures and constants.

`python -m tests.uapi_headers SOURCE > tests/data/uapi-VERSION.json` records the answers, so
that the comparison needs no headers later.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.uapi import errors, ghcb, kvm, layout, sev, vmsa

MODULES: tuple[ModuleType, ...] = (kvm, sev, ghcb, vmsa)

# Headers a user program can include as they are.
INCLUDED = (
    "include/uapi/linux/kvm.h",
    "arch/x86/include/uapi/asm/kvm.h",
    "arch/x86/include/uapi/asm/processor-flags.h",
    "arch/x86/include/uapi/asm/svm.h",
    "include/uapi/linux/kvm_para.h",
    "arch/x86/include/uapi/asm/kvm_para.h",
    "include/uapi/linux/sev-guest.h",
    "include/uapi/linux/psp-sev.h",
    "include/linux/psp-sev.h",
    "arch/x86/include/asm/sev-common.h",
)
# Kernel-internal files, out of which single definitions are taken.
PICKED = (
    "arch/x86/include/asm/svm.h",
    "arch/x86/include/asm/sev.h",
    "arch/x86/include/asm/kvm_host.h",
    "arch/x86/include/asm/msr-index.h",
    "arch/x86/coco/sev/shared.c",
    "arch/x86/kvm/svm/sev.c",
)
PICKED_ENUMS = ("msg_type", "aead_algo")
# The kernel's end in a flexible array, ours are as long as can be.
FLEXIBLE = ("psc_buffer",)
# Arms of kvm_run's union and what is nested elsewhere, as paths.
PATHS: dict[str, tuple[str, ...]] = {
    "kvm_run": (
        *(f"fail_entry.{name}" for name in ("hardware_entry_failure_reason", "cpu")),
        *(f"io.{name}" for name in ("direction", "size", "port", "count", "data_offset")),
        *(f"mmio.{name}" for name in ("phys_addr", "data", "len", "is_write")),
        *(f"hypercall.{name}" for name in ("nr", "args", "ret", "flags")),
        *(f"internal.{name}" for name in ("suberror", "ndata", "data")),
        *(f"emulation_failure.{name}" for name in ("flags", "insn_size", "insn_bytes")),
        *(f"system_event.{name}" for name in ("type", "ndata", "data")),
        *(f"msr.{name}" for name in ("error", "reason", "index", "data")),
        *(f"memory_fault.{name}" for name in ("flags", "gpa", "size")),
        "hw.hardware_exit_reason",
        "ex.error_code",
        "eoi.vector",
        "notify.flags",
        "debug.arch",
        "s.regs.sregs",
    ),
    "ghcb": ("save.sw_exit_code", "save.valid_bitmap", "save.x87_state_gpa"),
    "kvm_vcpu_events": ("exception.error_code", "interrupt.shadow", "nmi.masked", "smi.pending"),
}
# Prefixes of names that are enumerators, which #ifdef does not see.
ENUMS = (
    *("SEV_CMD_", "KVM_SEV_", "SNP_PAGE_TYPE_", "SNP_PAGE_STATE_", "SEV_STATE_", "SEV_RET_"),
    *("SEV_FACTORY", "SEV_P", "SEV_GET_ID", "SNP_PLATFORM_STATUS", "SNP_COMMIT"),
    *("SNP_SET_CONFIG", "SNP_VLEK_LOAD", "SNP_MSG_", "SNP_AEAD_"),
)

PREAMBLE = """
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;
typedef unsigned gfp_t;
#define __packed __attribute__((packed))
#define __user
#define BIT(n) (1UL << (n))
#define BIT_ULL(n) (1ULL << (n))
#define GENMASK_ULL(h, l) (((~0ULL) << (l)) & (~0ULL >> (63 - (h))))
#define ERR_PTR(x) ((void *)(long)(x))
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096
#endif
struct file;
"""


def structs() -> dict[str, type[layout.Struct]]:
    """Every structure of ours by its C name."""
    return {
        name: value
        for module in MODULES
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, layout.Struct) and name[0].islower()
    }


def constants() -> dict[str, int]:
    """Every integer constant of ours by its C name."""
    found = {
        name: value
        for module in MODULES
        for name, value in vars(module).items()
        if isinstance(value, int) and re.fullmatch(r"[A-Z][A-Za-z0-9_]*", name)
    }
    return found | {
        f"SEV_RET_{name}": int(value) for name, value in errors.SevFwError.__members__.items()
    }


def ours(key: str) -> Any:
    """Our answer to one question of the C program."""
    kind, _, name = key.partition(":")
    if kind == "const":
        value = constants().get(name)
        return value if value is None else value & (1 << 64) - 1
    struct, _, path = name.partition(" ")
    cls = structs()[struct]
    if kind == "sizeof":
        return ctypes.sizeof(cls)
    if kind == "bits":
        filled = cls()
        (width,) = (field[2] for field in cls._fields_ if len(field) == 3 and field[0] == path)
        setattr(filled, path, (1 << width) - 1)
        return bytes(filled).hex()
    return _offset(cls, path)


def _offset(cls: Any, path: str) -> int:
    head, _, rest = path.partition(".")
    at = int(getattr(cls, head).offset)
    if not rest:
        return at
    return at + _offset(type(getattr(cls(), head)), rest)


def _pick(kind: str, text: str, name: str) -> str | None:
    match = re.search(rf"^{kind} {name} \{{\n.*?^\}}[^;]*;", text, re.MULTILINE | re.DOTALL)
    return match[0] if match else None


def _pick_define(text: str, name: str) -> str | None:
    match = re.search(rf"^#define\s+{name}\s(?:.*\\\n)*.*$", text, re.MULTILINE)
    return match[0] if match else None


def program(source: Path) -> str:
    """Write the C program that answers everything the source tree can answer."""
    included = "\n".join((source / path).read_text() for path in INCLUDED)
    picked = "\n".join((source / path).read_text() for path in PICKED if (source / path).exists())
    lines = [PREAMBLE]
    lines += [f'#include "{source / path}"' for path in INCLUDED]
    enums = [text for name in PICKED_ENUMS if (text := _pick("enum", picked, name))]
    lines += enums
    included += "\n".join(enums)
    body = []
    for name in constants():
        if define := _pick_define(picked, name):
            lines.append(f"#ifndef {name}\n{define}\n#endif")
    # Structures of ours before those that hold them, as our modules define them.
    for name, cls in structs().items():
        tag = f"struct {name}"
        if not _pick("struct", included, name):
            text = _pick("struct", picked, name)
            if text is None or name in FLEXIBLE:
                continue
            lines.append(text)
        body.append(f'printf("sizeof:{name}\\t%zu\\n", sizeof({tag}));')
        for field in cls._fields_:
            if len(field) == 3:
                body.append(
                    f"{{ {tag} x; memset(&x, 0, sizeof(x)); x.{field[0]} = ~0ULL;"
                    f' printf("bits:{name} {field[0]}\\t\\"");'
                    ' for (size_t i = 0; i < sizeof(x); i++) printf("%02x", ((u8 *)&x)[i]);'
                    ' printf("\\"\\n"); }'
                )
        plain = [f[0] for f in cls._fields_ if len(f) == 2 and (name, f[0]) != ("kvm_run", "exit")]
        for path in (*plain, *PATHS.get(name, ())):
            if re.search(rf"\b{path.rpartition('.')[2]}\b", included + picked):
                body.append(f'printf("offsetof:{name} {path}\\t%zu\\n", offsetof({tag}, {path}));')
    for name in constants():
        known = name.startswith(ENUMS) and re.search(rf"\b{name}\b", included)
        show = f'printf("const:{name}\\t%llu\\n", (unsigned long long)({name}));'
        body.append(show if known else f"#ifdef {name}\n{show}\n#endif")
    return "\n".join([*lines, "int main(void)\n{", *body, "return 0;\n}\n"])


def ask(source: Path) -> dict[str, Any]:
    """Compile and run the program; answers by question."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "include/linux").mkdir(parents=True)
        for path in ("linux/compiler.h", "linux/compiler_types.h"):
            (place / "include" / path).write_text("")
        (place / "include/uapi").symlink_to(source / "include/uapi")
        (place / "uapi.c").write_text(program(source))
        flags = ["-std=gnu11", "-w", "-I", str(place / "include")]
        for path in ("include/uapi", "arch/x86/include/uapi"):
            flags += ["-I", str(source / path)]
        subprocess.run(
            ["gcc", *flags, "-o", str(place / "uapi"), str(place / "uapi.c")],
            check=True,
            timeout=120,
        )
        run = subprocess.run(
            [str(place / "uapi")], check=True, timeout=30, capture_output=True, text=True
        )
    answers = (line.split("\t") for line in run.stdout.splitlines())
    return {key: json.loads(value) for key, value in answers}


if __name__ == "__main__":
    json.dump(ask(Path(sys.argv[1]).absolute()), sys.stdout, indent=0, sort_keys=True)
    print()
