# SPDX-License-Identifier: GPL-2.0-only
"""Which compiler builds a kernel: what the environment names, and where that is seen."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from harness import host_packages, kbuild
from harness.compare import diff, render
from harness.errors import UsageError
from harness.kbuild import cache, cli, collect, compile, make
from harness.kbuild.toolchain import DEFAULT, Toolchain, brief
from tests import fakekernel
from tests.marks import real_test

CLANG_14 = "Debian clang version 14.0.6; Debian LLD 14.0.6 (compatible with GNU linkers)"
GCC_12 = "gcc (Debian 12.2.0-14+deb12u1) 12.2.0; GNU ld (GNU Binutils for Debian) 2.40"


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    host_packages.ensure_packages(["make", "gcc", "binutils", "git"], "for a test")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing named."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kbuild, "ensure_packages", lambda *_: None)
    for name in ("CC", "LLVM", "LD", "HOSTCC", "CROSS_COMPILE"):
        monkeypatch.delenv(name, raising=False)
    return cache.root()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in PATH, for compilers that only say what they are; there is no ccache."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "uname"):
        (folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, version: str, target: str = "x86_64-linux-gnu") -> None:
    path = folder / name
    script = f'#!/bin/sh\ncase $1 in -dumpmachine) echo "{target}";; *) echo "{version}";; esac\n'
    path.write_text(script)
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("named", "arguments", "strip"),
    [
        ({}, ["CC=gcc", "HOSTCC=gcc"], "strip"),
        ({"CC": "gcc-13"}, ["CC=gcc-13", "HOSTCC=gcc-13"], "strip"),
        ({"CC": "/usr/bin/ccache gcc-13 -m64"}, ["CC=gcc-13 -m64", "HOSTCC=gcc-13 -m64"], "strip"),
        ({"CC": "clang", "LD": "ld.lld"}, ["CC=clang", "HOSTCC=clang", "LD=ld.lld"], "strip"),
        ({"LLVM": "1"}, ["CC=clang", "HOSTCC=clang", "LLVM=1"], "llvm-strip"),
        ({"LLVM": "-18"}, ["CC=clang-18", "HOSTCC=clang-18", "LLVM=-18"], "llvm-strip-18"),
        (
            {"LLVM": "/opt/l/"},
            ["CC=/opt/l/clang", "HOSTCC=/opt/l/clang", "LLVM=/opt/l/"],
            "/opt/l/llvm-strip",
        ),
        ({"CC": "gcc-13", "HOSTCC": "gcc-12"}, ["CC=gcc-13", "HOSTCC=gcc-12"], "strip"),
        (
            {"CROSS_COMPILE": "x86_64-linux-gnu-"},
            ["CC=x86_64-linux-gnu-gcc", "HOSTCC=gcc", "CROSS_COMPILE=x86_64-linux-gnu-"],
            "x86_64-linux-gnu-strip",
        ),
    ],
)
def test_what_is_named_reaches_make(
    named: dict[str, str], arguments: list[str], strip: str, programs: Path
) -> None:
    toolchain = Toolchain.of_environment({**named, "CFLAGS": "-O3"})
    assert toolchain.make_arguments() == arguments
    assert toolchain.tool("strip") == strip
    (programs / "ccache").symlink_to("/bin/sh")
    cached = [each.replace("CC=", "CC=ccache ") for each in arguments]
    assert toolchain.make_arguments() == cached


def test_another_architecture_is_named_to_make(monkeypatch: pytest.MonkeyPatch) -> None:
    host = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*host[:4], "aarch64")))
    assert "ARCH=x86_64" in Toolchain(llvm="1").make_arguments()


def test_versions_are_shortened() -> None:
    assert brief(CLANG_14) == "clang 14.0.6"
    assert brief(GCC_12) == "gcc 12.2.0"
    assert brief("x86_64-linux-gnu-gcc-13 (Ubuntu 13.2.0-4ubuntu3) 13.2.0; ld") == "gcc 13.2.0"
    assert brief("gcc (GCC) 15.1.1 20250425 (Red Hat 15.1.1-1); GNU ld") == "gcc 15.1.1"
    assert brief("clang version 20.1.8 (Fedora 20.1.8-4.fc42) -O1; GNU ld") == "clang 20.1.8"
    assert brief("tcc; ld") == "tcc"
    assert brief("") == ""


def test_keys_and_folders_follow_the_toolchain(programs: Path) -> None:
    program(programs, "gcc", "gcc (Debian 12.2.0-14) 12.2.0")
    program(programs, "gcc-11", "gcc-11 (Debian 11.3.0-12) 11.3.0")
    program(programs, "clang", "Debian clang version 14.0.6")
    program(programs, "ld", "GNU ld 2.40")
    program(programs, "ld.lld", "Debian LLD 14.0.6")
    assert DEFAULT.version() == "gcc (Debian 12.2.0-14) 12.2.0; GNU ld 2.40"
    tags = [
        each.tag
        for each in (
            DEFAULT,
            Toolchain(cc="ccache gcc"),
            Toolchain(cc="gcc-11"),
            Toolchain(cc="clang"),
            Toolchain(llvm="1"),
        )
    ]
    assert tags == ["", "", "gcc11.3.0", "clang14.0.6", "clang14.0.6-lld"]
    assert make.objects_name(["base"], (6, 12, 7), tags[2]) == "base-6.12-gcc11.3.0"
    assert make.objects_name(["base"], (6, 12, 7)) == "base-6.12"
    versions = {
        each.version()
        for each in (
            DEFAULT,
            Toolchain(cc="gcc -m64"),
            Toolchain(cc="gcc-11"),
            Toolchain(cc="clang"),
            Toolchain(llvm="1"),
        )
    }
    assert len(versions) == 5


def test_what_is_not_there_is_told(programs: Path) -> None:
    with pytest.raises(UsageError, match="there is no program gcc-99") as caught:
        Toolchain(cc="gcc-99").check()
    assert "CC=" in caught.value.hint
    program(programs, "clang", "clang version 14.0.6")
    with pytest.raises(UsageError, match=r"LLVM=1: not there: ld\.lld, llvm-ar, "):
        Toolchain(llvm="1").check()
    program(programs, "gcc", "gcc 12", "aarch64-linux-gnu")
    with pytest.raises(UsageError, match=r"gcc compiles for aarch64-linux-gnu; want x86_64") as arm:
        DEFAULT.check()
    assert "CROSS_COMPILE=x86_64-linux-gnu-" in arm.value.hint
    program(programs, "x86_64-linux-gnu-gcc", "gcc 12")
    Toolchain(cross_compile="x86_64-linux-gnu-").check()
    (programs / "cc").write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    (programs / "cc").chmod(0o755)
    with pytest.raises(UsageError, match=r"cc --version failed: broken"):
        Toolchain(cc="cc").check()


def test_a_kernel_is_built_by_what_cc_names_and_says_so(
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = str(fakekernel.write_tree(tmp_path / "linux"))
    plain = kbuild.build("plain", source)
    mine = tmp_path / "gcc-mine"
    mine.write_text(
        '#!/bin/sh\n[ "$1" != --version ] || { echo "gcc-mine (Mine) 99.1.0"; exit; }\n'
        f'echo "$@" >>{tmp_path}/calls\nexec gcc "$@"\n'
    )
    mine.chmod(0o755)
    monkeypatch.setenv("CC", str(mine))
    assert cli.build(cli.BuildOptions("other", source)) == 0
    assert "by gcc 99.1.0, in " in capsys.readouterr().out
    other = kbuild.get("other")
    assert "drivers/kvm.c" in (tmp_path / "calls").read_text()
    assert other.key != plain.key
    assert other.compiler.startswith("gcc-mine (Mine) 99.1.0; ")
    assert other.objects == "base-6.12-gcc99.1.0"
    assert {each.name for each in (home / "build").iterdir()} == {"base-6.12", other.objects}
    assert cli.kernels(as_json=False) == 0
    listed = capsys.readouterr().out
    assert "gcc 99.1.0" in listed
    assert brief(plain.compiler) in listed
    # What the other compiler made stays as long as its kernel.
    assert not [each for each in collect.collect(dry_run=True) if "build/" in each.what]
    removed = [each.what for each in collect.collect(["other"])]
    assert "build/base-6.12-gcc99.1.0" in removed
    assert "build/base-6.12" not in removed


def test_what_is_no_kernel_is_built_by_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU is not built again for another kernel's compiler."""
    before = compile.compiler_version()
    monkeypatch.setenv("CC", "gcc-99")
    assert compile.compiler_version() == before
    assert compile.compiler().endswith("gcc")


def test_a_comparison_says_that_compilers_differ() -> None:
    a, b = diff.Side("a", compiler="gcc 12.2.0"), diff.Side("b", compiler="clang 14.0.6")
    text = render.mail(diff.compare(a, b), a, b, {})
    assert "A was built by gcc 12.2.0, B by clang 14.0.6" in " ".join(text.split())
    a.compiler = b.compiler
    assert "was built by" not in render.mail(diff.compare(a, b), a, b, {})
    a.compiler = ""
    assert "was built by" not in render.mail(diff.compare(a, b), a, b, {})


def newest_llvm() -> str:
    """Return what LLVM= is to name: older than 15, clang makes no return thunks (base.config)."""
    for name in ("1", *(f"-{number}" for number in range(22, 14, -1))):
        toolchain = Toolchain(llvm=name)
        try:
            toolchain.check()
        except UsageError:
            continue
        if int(brief(toolchain.version()).split()[1].split(".")[0]) >= 15:
            return name
    pytest.skip("clang 15 or newer, lld and llvm are not installed")


@real_test("builds a kernel with clang", 2400)
def test_clang_builds_the_kernel(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """With LLVM=, in the user's own cache: a kernel takes minutes."""
    monkeypatch.undo()
    monkeypatch.setenv("LLVM", newest_llvm())
    built = kbuild.build("test-clang", "linux-source-6.12")
    assert brief(built.compiler).startswith("clang ")
    assert 'CONFIG_CC_VERSION_TEXT="' in built.config.read_text()
    assert "CONFIG_CC_IS_CLANG=y" in built.config.read_text()
    assert "CONFIG_LD_IS_LLD=y" in built.config.read_text()
