# SPDX-License-Identifier: GPL-2.0-only
"""What a distribution's configuration has of the symbols that KVM for SNP can see.

    python -m harness.kbuild.visible TREE CONFIG PACKAGE > kernels/visible/NAME.config

makes the list that kernels/base.config is held against (a test compares), from a kernel tree
and the configuration of a distribution's package for that version.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.kbuild.config import FRAGMENTS, read_config
from harness.report.outcome import ExitCode
from harness.report.words import counted

FOLDER = FRAGMENTS / "visible"

SOURCES = (
    # KVM itself, and the guest's side.
    "arch/x86/kvm",
    "virt",
    "arch/x86/virt/svm",
    "arch/x86/coco",
    "include/linux/kvm_host.h",
    "arch/x86/include/asm/kvm_host.h",
    # What it drives: the PSP, the IOMMU.
    "drivers/crypto/ccp",
    "drivers/iommu/amd",
    # Where the host's CR4, XCR0, XSS and mitigations are decided, which KVM and guests see.
    "arch/x86/entry",
    "arch/x86/kernel/fpu",
    "arch/x86/kernel/cpu/amd.c",
    "arch/x86/kernel/cpu/bugs.c",
    "arch/x86/kernel/cpu/common.c",
    "arch/x86/include/asm/disabled-features.h",
    "arch/x86/Kconfig.cpufeatures",
    # Memory: its encryption, and pages that fail.
    "arch/x86/mm/mem_encrypt.c",
    "arch/x86/mm/mem_encrypt_amd.c",
    "mm/memory-failure.c",
)
"""Files and folders whose symbols count; a version may lack some of them."""

_READ = re.compile(r"\bCONFIG_([A-Z0-9_]+)\b")
_DEPENDS = re.compile(r"^\s*(?:depends on|def_bool|default|select)\b.*", re.MULTILINE)
_WORD = re.compile(r"\b[A-Z][A-Z0-9_]{2,}\b")
_ENTRY = re.compile(r"^\s*(?:menu)?config\s+([A-Z0-9_]+)$", re.MULTILINE)
_PROMPT = re.compile(r"""^\s*(?:(?:bool|tristate|int|hex|string)\s+["']|prompt\s)""", re.MULTILINE)
_WITHOUT_PROMPT = "# These have no prompt: they follow from others."


def symbols_read(tree: Path) -> set[str]:
    """Name the symbols, without CONFIG_, that the SOURCES of a kernel tree read."""
    found: set[str] = set()
    for path in _files(tree):
        text = path.read_text(errors="replace")
        found |= set(_READ.findall(text))
        if path.name.startswith("Kconfig"):
            found |= {word for line in _DEPENDS.findall(text) for word in _WORD.findall(line)}
    return found


def _files(tree: Path) -> Iterator[Path]:
    for name in SOURCES:
        path = tree / name
        if path.is_dir():
            yield from (
                each
                for each in sorted(path.rglob("*"))
                if each.suffix in (".c", ".h", ".S") or each.name in ("Makefile", "Kconfig")
            )
        elif path.is_file():
            yield path


def with_prompt(tree: Path) -> set[str]:
    """Name the symbols of x86 that have a prompt: a configuration can ask for them."""
    found: set[str] = set()
    for path in sorted(tree.rglob("Kconfig*")):
        folders = path.relative_to(tree).parts
        if folders[0] == "arch" and len(folders) > 2 and folders[1] != "x86":
            continue
        names_and_bodies = _ENTRY.split(path.read_text(errors="replace"))[1:]
        for name, body in zip(names_and_bodies[::2], names_and_bodies[1::2], strict=True):
            if _PROMPT.search(body.partition("help\n")[0]):
                found.add(name)
    return found


def make_list(tree: Path, text: str, package: str) -> str:
    """Return what a configuration sets of the symbols that are read, those with a prompt first.

    Only what is on, and numbers: strings, and answers about the compiler, say nothing about a
    host.
    """
    prompts = with_prompt(tree)
    config = read_config(text)
    read = {f"CONFIG_{name}" for name in symbols_read(tree)}
    kept = {
        name: value
        for name, value in config.items()
        if name in read and not value.startswith('"') and not name.startswith("CONFIG_CC_")
    }
    lines = {
        asked: [
            f"{name}={value}"
            for name, value in sorted(kept.items())
            if (name.removeprefix("CONFIG_") in prompts) is asked
        ]
        for asked in (True, False)
    }
    return "\n".join(
        [
            "# SPDX-License-Identifier: GPL-2.0-only",
            "#",
            f"# From {package}: what it sets of the symbols",
            "# that the host's SNP code, and what that relies on, read.  Made, with the names of",
            "# the files, by harness.kbuild.visible.py.",
            "",
            *lines[True],
            "",
            _WITHOUT_PROMPT,
            *lines[False],
            "",
        ]
    )


def read_lists() -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """Return our lists by name: symbols with a prompt and their values, and those without."""
    found = {}
    for path in sorted(FOLDER.glob("*.config")):
        asked, _, follow = path.read_text().partition(_WITHOUT_PROMPT)
        found[path.stem] = (read_config(asked), read_config(follow))
    return found


def main(arguments: Sequence[str]) -> int:
    """Print the list of a tree and a configuration."""
    try:
        if len(arguments) != 3:
            raise UsageError(
                f"{counted(len(arguments), 'argument')} given; want 3",
                "a kernel tree, a .config, and the package that it is of, with its version",
            )
        tree, config, package = Path(arguments[0]), Path(arguments[1]), arguments[2]
        if not (tree / "arch/x86/kvm").is_dir():
            raise UsageError(f"{tree} is no kernel tree: it has no arch/x86/kvm")
        if not config.is_file():
            raise UsageError(f"{config} is no file", "name a .config, not packed")
        print(make_list(tree, config.read_text(), package), end="")
    except UsageError as error:
        print(f"snptest: {error}", file=sys.stderr)
        return ExitCode.USAGE
    return ExitCode.PASSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
