# SPDX-License-Identifier: GPL-2.0-only
"""kernels/base.config against the configuration of a distribution's kernel."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import kbuild
from harness.kbuild import config, visible
from tests import test_newer, test_vng

update = test_vng.update
newer = test_newer.newer

LISTS = visible.read_lists()
ON = ("y", "m")
FEWER = {"CONFIG_NR_CPUS"}
"""Numbers that may be smaller than a distribution's: this one is for want of MAXSMP."""


def release_of(name: str) -> tuple[int, int, int]:
    """Return the version of a list: the last point release, for which everything counts."""
    match = re.fullmatch(r"[a-z]+-([0-9]+)\.([0-9]+)", name)
    assert match
    return int(match[1]), int(match[2]), 1 << 16


def test_there_is_a_list_of_each_major_version() -> None:
    assert {release_of(name)[0] for name in LISTS} >= {6, 7}
    for asked, follow in LISTS.values():
        assert len(asked) > 80
        assert len(follow) > 30
        assert asked["CONFIG_X86_MCE"] == "y"


@pytest.mark.parametrize("name", LISTS)
def test_what_a_distribution_sets_is_asked_for_or_left_out_for_a_reason(name: str) -> None:
    fragments = config.find_fragments(())
    symbols = config.wanted_symbols(fragments, release_of(name))
    ours = {symbol.name: symbol.value for symbol in symbols}
    text = fragments[0].text
    named = config.left_out(text) | config.implied(text)
    theirs, _ = LISTS[name]
    on = {symbol for symbol, value in theirs.items() if value in ON}
    assert sorted(on - {each for each in ours if ours[each] in ON} - named) == []
    numbers = theirs.keys() - on - FEWER
    assert {each: ours.get(each) for each in numbers} == {each: theirs[each] for each in numbers}


def test_what_is_implied_is_somewhere_and_not_asked_for() -> None:
    text = config.find_fragments(())[0].text
    ours = {symbol.name for symbol in config.read_fragment(text)}
    listed = {name for asked, follow in LISTS.values() for name in asked | follow}
    assert sorted(config.implied(text) - listed) == []
    assert sorted(config.implied(text) & (ours | config.left_out(text))) == []


def not_as_listed(kernel: kbuild.KernelBuild) -> list[str]:
    """List what a distribution's kernel of this version has on and the kernel has not."""
    name = f"debian-{kernel.version[0]}.{kernel.version[1]}"
    if name not in LISTS:
        pytest.skip(f"kernels/visible has no {name}.config")
    built = config.read_config(kernel.config.read_text())
    without = config.left_out(config.find_fragments(())[0].text)
    asked, follow = LISTS[name]
    on = {symbol for symbol, value in (asked | follow).items() if value in ON}
    return sorted(on - built.keys() - without)


@pytest.mark.kbuild
@pytest.mark.deadline(test_vng.BUILD_TIMEOUT)
def test_the_kernel_that_is_built_has_it(update: test_vng.Update) -> None:
    """With what follows from other symbols, which no fragment can ask for."""
    assert not_as_listed(update.kernel) == []


@pytest.mark.kbuild
@pytest.mark.deadline(test_vng.BUILD_TIMEOUT)
def test_the_newer_kernel_that_is_built_has_it(newer: kbuild.KernelBuild) -> None:
    assert not_as_listed(newer) == []


# -- making a list -------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A kernel tree of a few files."""
    files = {
        "arch/x86/kvm/svm/svm.c": "#ifdef CONFIG_X86_MCE\n#if IS_ENABLED(CONFIG_KVM_SMM)\n",
        "arch/x86/kvm/Kconfig": "config KVM_AMD_SEV\n\tdepends on CRYPTO_DEV_SP_PSP\n",
        "arch/x86/Kconfig": (
            'config X86_MCE\n\tbool "Machine checks"\n\thelp\n\t  For servers.\n'
            "config KVM_SMM\n\tdef_bool y\n\thelp\n\t  prompt nobody\n"
            'config KVM_MAX\n\tint\n\tprompt "How many"\n'
        ),
        "arch/arm64/Kconfig": 'config KVM_SMM\n\tbool "Of another architecture"\n',
        "drivers/crypto/ccp/sev-dev.c": "int n = CONFIG_KVM_MAX; /* CONFIG_NOBODY_SETS */\n",
        "drivers/crypto/Kconfig": 'config CRYPTO_DEV_SP_PSP\n\ttristate "PSP"\n',
        "drivers/gpu/drm/drm.c": "#ifdef CONFIG_DRM\n",
    }
    for name, text in files.items():
        path = tmp_path / "linux" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "linux"


CONFIG = (
    'CONFIG_CC_VERSION_TEXT="gcc"\nCONFIG_X86_MCE=y\nCONFIG_KVM_SMM=y\nCONFIG_KVM_MAX=4096\n'
    "CONFIG_DRM=m\nCONFIG_CRYPTO_DEV_SP_PSP=m\n# CONFIG_OTHER is not set\n"
)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.kbuild.visible", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_list_is_what_the_sources_read_and_the_configuration_sets(
    tree: Path, tmp_path: Path
) -> None:
    file = tmp_path / "config"
    file.write_text(CONFIG)
    done = run(str(tree), str(file), "linux-image-1 (1.0)")
    assert done.returncode == 0, done.stderr
    head, asked, follow = done.stdout.split("\n\n")
    assert "From linux-image-1 (1.0):" in head
    assert asked.splitlines() == [
        "CONFIG_CRYPTO_DEV_SP_PSP=m",
        "CONFIG_KVM_MAX=4096",
        "CONFIG_X86_MCE=y",
    ]
    assert follow.splitlines()[1:] == ["CONFIG_KVM_SMM=y"]


def test_what_no_list_can_be_made_of_is_told(tree: Path, tmp_path: Path) -> None:
    for words, said in (
        ((str(tree),), "1 argument given; want 3"),
        ((str(tmp_path), str(tree), "x"), "is no kernel tree: it has no arch/x86/kvm"),
        ((str(tree), str(tmp_path / "none"), "x"), "is no file"),
    ):
        done = run(*words)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
