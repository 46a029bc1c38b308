# SPDX-License-Identifier: GPL-2.0-only
"""`--config distribution`: the distribution's own configuration, and what lies on it."""

from __future__ import annotations

import lzma
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness import apt, host_packages, kbuild
from harness.errors import BuildError, UsageError
from harness.kbuild import cache, config, debsource, distribution
from harness.kbuild.progress import Progress
from harness.kbuild.tree import KernelTree
from tests import fakekernel

BASE = debsource.DebianSource("linux-source-6.12", "6.12.7-1")
THEIRS = (
    '# Linux/x86 6.12.7 Kernel Configuration\nCONFIG_LOCALVERSION=""\nCONFIG_KVM=m\n'
    "CONFIG_X86_MCE=y\nCONFIG_VIRTIO_PCI=m\n# CONFIG_KSM is not set\n"
)


@dataclass
class Shop:
    """An apt that offers packages, made when they are downloaded."""

    packages: dict[str, list[str]]
    text: str = THEIRS
    member: str = distribution.MEMBER
    downloaded: list[str] = field(default_factory=list)

    def offered(self, package: str) -> list[str]:
        return self.packages.get(package, [])

    def names(self, prefix: str) -> list[str]:
        return [name for name in self.packages if name.startswith(prefix)]

    def download(self, package: str, version: str, folder: Path) -> Path:
        self.downloaded.append(f"{package}={version}")
        root = cache.root() / "package"
        file = root / "usr/src" / package / self.member
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(lzma.compress(f"{self.text}# {version}\n".encode()))
        control = root / "DEBIAN/control"
        control.parent.mkdir(exist_ok=True)
        control.write_text(
            f"Package: {package}\nVersion: {version}\nArchitecture: all\n"
            "Maintainer: A Developer <a@example.org>\nDescription: made for a test\n"
        )
        target = folder / f"{package}.deb"
        command = ["dpkg-deb", "--build", str(root), str(target)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return target


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    host_packages.ensure_packages(["make", "gcc", "binutils", "git"], "for a test")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kbuild, "ensure_packages", lambda *_: None)
    monkeypatch.setattr(debsource, "offered", lambda package: [BASE.version])
    return cache.root()


def offer(
    monkeypatch: pytest.MonkeyPatch, system: Shop, suites: Shop | None = None
) -> tuple[Shop, Shop | None]:
    monkeypatch.setattr(apt, "system", lambda: system)
    monkeypatch.setattr(apt, "suites", lambda refresh=False: suites)
    return system, suites


@pytest.fixture
def base(tmp_path: Path, home: Path) -> str:
    """A tree as a source package that was imported."""
    source = fakekernel.write_tree(tmp_path / "linux-source-6.12")
    with tarfile.open(tmp_path / "source.tar", "w") as archive:
        archive.add(source, source.name)
    KernelTree(home / "linux").import_tarball(tmp_path / "source.tar", BASE.ref)
    return "linux-source-6.12"


@pytest.mark.parametrize(
    ("point", "taken"),
    [(7, "6.12.7-1~deb12u1"), (9, "6.12.9-2"), (8, "6.12.10-1"), (1, "6.12.10-1")],
)
def test_that_of_the_point_release_or_the_newest(
    monkeypatch: pytest.MonkeyPatch, point: int, taken: str
) -> None:
    system = Shop({"linux-config-6.12": ["6.12.9-2", "6.12.7-1~deb12u1"]})
    suites = Shop({"linux-config-6.12": ["6.12.10-1"], "linux-config-7.3": ["7.3.4-1"]})
    offer(monkeypatch, system, suites)
    text = distribution.configuration((6, 12, point), Progress())
    assert text == f"{THEIRS}# {taken}\n"
    assert system.downloaded + suites.downloaded == [f"linux-config-6.12={taken}"]
    assert distribution.configuration((6, 12, point), Progress()) == text
    assert len(system.downloaded + suites.downloaded) == 1, "the second time it is kept"


def test_no_configuration_of_this_version(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    offer(monkeypatch, Shop({"linux-config-6.1": ["6.1.9-1"]}), Shop({"linux-config-7.3": ["7.3"]}))
    with pytest.raises(UsageError) as caught:
        kbuild.plan("mine", base, fragments=["distribution"])
    assert caught.value.message == "--config distribution: apt offers no linux-config-6.12"
    assert "it has linux-config-6.1, linux-config-7.3; " in caught.value.hint


def test_a_package_that_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Shop({"linux-config-6.12": ["6.12.7-1"]}, member="config.arm64.xz"))
    with pytest.raises(BuildError, match=r"linux-config-6\.12\.deb holds no \S*none_amd64\.xz"):
        distribution.configuration((6, 12, 7), Progress())


def test_it_takes_the_place_of_ours(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    """The distribution's symbols, and on top those that a boot here needs; nothing of base."""
    offer(monkeypatch, Shop({"linux-config-6.12": ["6.12.7-1"]}))
    said: list[str] = []
    built = kbuild.build("mine", base, fragments=["selftest", "distribution"], say=said.append)
    assert built.fragments == ("distribution", "selftest")
    lines = built.config.read_text().splitlines()
    assert {"CONFIG_X86_MCE=y", "CONFIG_KVM=m", "CONFIG_LKDTM=m", "CONFIG_9P_FS=y"} <= set(lines)
    for name, value in (("LOCALVERSION", '"-snptest"'), ("VIRTIO_PCI", "y")):
        assert [each for each in lines if f"CONFIG_{name}=" in each] == [f"CONFIG_{name}={value}"]
    assert not any("CONFIG_NR_CPUS" in each for each in lines), "base.config has it, not they"
    assert said == [], "the tree's Kconfig takes everything"
    # Another configuration is another kernel, in a folder of its own.
    assert kbuild.build("ours", base, fragments=["selftest"]).key != built.key
    assert {each.name for each in (cache.root() / "build").iterdir()} == {
        "base+selftest-6.12",
        "distribution+selftest-6.12",
    }


def test_what_the_distribution_changes_is_another_kernel(
    monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    offer(monkeypatch, Shop({"linux-config-6.12": ["6.12.7-1"]}))
    first = kbuild.build("one", base, fragments=["distribution"])
    newer = Shop({"linux-config-6.12": ["6.12.7-2"]}, text=THEIRS.replace("MCE=y", "MCE=n"))
    offer(monkeypatch, newer)
    assert kbuild.build("two", base, fragments=["distribution"]).key != first.key


def wanted(text: str) -> list[config.Symbol]:
    fragment = config.Fragment("distribution", "# Why.\nCONFIG_OURS=y\n", below=text)
    return config.wanted_symbols([fragment], (6, 12, 7))


def test_what_did_not_take_is_told() -> None:
    symbols = wanted(
        "CONFIG_X86_MCE=y\nCONFIG_X86_UMIP=y\nCONFIG_CC_HAS_X=y\nCONFIG_DRM=m\nCONFIG_SOUND=m\n"
        "CONFIG_KVM=m\nCONFIG_GCC_VERSION=140200\n"
    )
    config.check_config(symbols, "CONFIG_OURS=y\nCONFIG_KVM=m\n")
    built = {"CONFIG_OURS": "y", "CONFIG_KVM": "m", "CONFIG_X86_UMIP": "y"}
    assert distribution.differences(symbols, built) == (
        "of the distribution's configuration, 2 modules and 2 options are not there "
        "(kernels/distribution.config leaves out most); what KVM reads of them: X86_MCE"
    )
    everything = {symbol.name: symbol.value for symbol in symbols}
    assert distribution.differences(symbols, everything) == ""
    with pytest.raises(BuildError, match=r"CONFIG_OURS=y did not take \(it is n\): Why\."):
        config.check_config(symbols, "CONFIG_X86_MCE=y\n")


def test_other_fragments_lie_on_nothing() -> None:
    fragments = config.find_fragments(["debug"])
    assert [each.name for each in fragments] == ["base", "debug"]
    assert distribution.complete(fragments, (6, 12, 7), Progress()) == fragments
    found = config.find_fragments(["debug", "distribution"])
    assert [each.name for each in found] == ["distribution", "debug"]
