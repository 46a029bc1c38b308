# SPDX-License-Identifier: GPL-2.0-only
"""Which compiler and linker build a kernel, named as kernel developers name them.

The environment says it: LLVM=1 (or LLVM=-18, LLVM=/opt/llvm/bin/), CC=gcc-13, LD=, HOSTCC=,
CROSS_COMPILE=x86_64-linux-gnu-; without them it is gcc and GNU ld.  Kbuild's own Makefile would
not take CC from the environment: it is passed on to make as an argument.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from harness.command import captured
from harness.errors import UsageError

ARCHITECTURE = "x86_64"
VERSION_TIMEOUT = 60.0
VARIABLES = ("LLVM", "CC", "LD", "HOSTCC", "CROSS_COMPILE")
_LLVM = {"gcc": "clang", "ld": "ld.lld"}
_LLVM_TOOLS = (
    "clang",
    "ld.lld",
    "llvm-ar",
    "llvm-nm",
    "llvm-objcopy",
    "llvm-readelf",
    "llvm-strip",
)
_NUMBER = re.compile(r"\b\d+(?:\.\d+)+\b")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A compiler, a linker and what belongs to them, as a user named them; "" where not."""

    llvm: str = ""
    cc: str = ""
    ld: str = ""
    hostcc: str = ""
    cross_compile: str = ""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Toolchain:
        """Return what the environment names."""
        return cls(*(environment.get(name, "").strip() for name in VARIABLES))

    @property
    def compiler(self) -> list[str]:
        """The words of the C compiler, without ccache."""
        words = shlex.split(self.cc)
        if words and PurePath(words[0]).name == "ccache":
            del words[0]
        return words or [self.tool("gcc")]

    @property
    def linker(self) -> str:
        """The linker."""
        return self.ld or self.tool("ld")

    def tool(self, name: str) -> str:
        """Return a program of binutils' name, or gcc, of this toolchain."""
        if not self.llvm:
            return self.cross_compile + name
        name = _LLVM.get(name, f"llvm-{name}")
        return self._of_llvm(name)

    def _of_llvm(self, name: str) -> str:
        """Do as Documentation/kbuild/llvm.rst has it: a suffix, a folder, or nothing."""
        if self.llvm.startswith("-"):
            return name + self.llvm
        return self.llvm + name if self.llvm.endswith("/") else name

    def version(self) -> str:
        """Return what identifies compiler and linker, for the cache's keys; UsageError: not there.

        The first lines of what they say of themselves, and options behind the compiler's name.
        """
        program, *options = self.compiler
        first = _first_line([program, "--version"])
        compiler = " ".join([first, *options])
        return f"{compiler}; {_first_line([self.linker, '--version'])}"

    @property
    def tag(self) -> str:
        """Part of the name of the folder for objects; "" of the default."""
        if self.compiler == ["gcc"] and self.linker == "ld":
            return ""
        name = brief(self.version()).replace(" ", "")
        return name + ("-lld" if "ld.lld" in self.linker else "")

    def check(self) -> None:
        """Raise UsageError where a program is missing, or compiles for another architecture."""
        if self.llvm:
            tools = map(self._of_llvm, _LLVM_TOOLS)
            if missing := [each for each in tools if shutil.which(each) is None]:
                raise UsageError(
                    f"LLVM={self.llvm}: not there: {', '.join(missing)}",
                    "Debian's packages are clang, lld and llvm; LLVM=-18 takes clang-18 and so on",
                )
        program = self.compiler[0]
        if "clang" in _first_line([program, "--version"]):
            return  # it compiles for every architecture; kbuild tells it for which
        target = _first_line([program, "-dumpmachine"])
        if not re.match(r"x86_64|amd64|i[3-6]86", target):
            raise UsageError(
                f"{program} compiles for {target or 'an unknown target'}; want {ARCHITECTURE}",
                "CROSS_COMPILE=x86_64-linux-gnu-, or LLVM=1",
            )

    def make_arguments(self) -> list[str]:
        """Return make's arguments, with ccache where that is installed."""
        ccache = "ccache " if shutil.which("ccache") else ""
        compiler = shlex.join(self.compiler)
        arguments = [f"CC={ccache}{compiler}", f"HOSTCC={ccache}{self._host_compiler()}"]
        if self.llvm:
            arguments.append(f"LLVM={self.llvm}")
        if self.ld:
            arguments.append(f"LD={self.ld}")
        if self.cross_compile:
            arguments.append(f"CROSS_COMPILE={self.cross_compile}")
        if os.uname().machine != ARCHITECTURE:
            arguments.append(f"ARCH={ARCHITECTURE}")
        return arguments

    def _host_compiler(self) -> str:
        """Return what compiles kbuild's own programs: the compiler, unless it is a cross compiler.

        A base that needs another compiler than the default needs it for them, too.
        """
        if self.hostcc:
            return shlex.join(w for w in shlex.split(self.hostcc) if PurePath(w).name != "ccache")
        if self.llvm:
            return self.tool("gcc")
        return "gcc" if self.cross_compile else shlex.join(self.compiler)


DEFAULT = Toolchain()
"""What everything is built with that is no kernel: QEMU, selftests."""


def brief(version: str) -> str:
    """Shorten what Toolchain.version() gave: "gcc 12.2.0", "clang 18.1.8"."""
    compiler = version.partition(";")[0]
    name = "clang" if "clang" in compiler else "gcc" if re.search("gcc|GCC", compiler) else ""
    numbers = _NUMBER.findall(re.sub(r"\([^)]*\)", "", compiler)) or _NUMBER.findall(compiler)
    if not name or not numbers:
        return compiler
    return f"{name} {numbers[0]}"


def _first_line(command: list[str]) -> str:
    hint = "install it, or name another compiler: CC=gcc-13, LLVM=1"
    if shutil.which(command[0]) is None:
        raise UsageError(f"there is no program {command[0]}", hint)
    try:
        done = captured(command, VERSION_TIMEOUT, f"{command[0]} did not say its version")
    except OSError as error:
        raise UsageError(f"{command[0]} cannot be run: {error.strerror}", hint) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().partition("\n")[0]
        raise UsageError(f"{' '.join(command)} failed: {said or 'it gave no reason'}")
    return done.stdout.partition("\n")[0].strip()
