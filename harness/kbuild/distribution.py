# SPDX-License-Identifier: GPL-2.0-only
"""`--config distribution`: what Debian configures its own kernel of a version with.

It comes from the package linux-config-X.Y, by the same apt as kernel sources, and is kept in
the cache.  kernels/distribution.config lies on top of it, in place of base.config.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Sequence
from dataclasses import replace

from harness import apt
from harness.errors import BuildError, UsageError
from harness.kbuild import cache, visible
from harness.kbuild.config import DISTRIBUTION, Fragment, Symbol
from harness.kbuild.progress import Progress
from harness.report.words import counted

MEMBER = "config.amd64_none_amd64.xz"
"""The flavour that Debian's own linux-image-amd64 is of: not the cloud's, not the realtime one."""
SHOWN = 12
"""Symbols that are named in a message."""


def complete(
    fragments: Sequence[Fragment], version: Sequence[int], progress: Progress
) -> list[Fragment]:
    """Put the distribution's configuration of a version below the fragment that lies on it.

    Other fragments stay as they are.  UsageError: apt offers none of that version.
    """
    return [
        replace(each, below=configuration(version, progress)) if each.name == DISTRIBUTION else each
        for each in fragments
    ]


def configuration(version: Sequence[int], progress: Progress) -> str:
    """Return the distribution's configuration of a version of Linux, downloaded at first use."""
    package = f"linux-config-{version[0]}.{version[1]}"
    client, release = _offered(package, ".".join(str(number) for number in version))
    name = f"{package}_{re.sub('[~:]', '_', release)}.config"
    kept = cache.root() / "distribution" / name
    if not kept.is_file():
        progress.stage(f"downloading {package}={release}")
        text = _download(client, package, release)
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch = kept.with_suffix(".new")
        scratch.write_text(text)
        scratch.rename(kept)
    return kept.read_text()


def _offered(package: str, version: str) -> tuple[apt.Apt, str]:
    """Choose who offers a package, and its version: of this point release, or the newest."""
    system, suites = apt.system(), apt.suites()
    clients = [system] if suites is None else [system, suites]
    offers = [(client, each) for client in clients for each in client.offered(package)]
    for client, each in offers:
        if each.startswith((f"{version}-", f"{version}~")):
            return client, each
    if offers:
        newest = apt.sort_versions([each for _, each in offers])[0]
        return next(offer for offer in offers if offer[1] == newest)
    known = sorted({name for client in clients for name in client.names("linux-config-")})
    there = f"it has {', '.join(known)}; " if known else ""
    raise UsageError(
        f"--config {DISTRIBUTION}: apt offers no {package}",
        f"{there}a configuration that you have may be given as a file: --config FILE",
    )


def _download(client: apt.Apt, package: str, release: str) -> str:
    folder = cache.downloads()
    file = client.download(package, release, folder)
    packed = folder / MEMBER
    apt.extract(file, f"./usr/src/{package}/{MEMBER}", packed)
    try:
        return lzma.decompress(packed.read_bytes()).decode()
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise BuildError(f"{file.name} holds no configuration: {error}") from None
    finally:
        file.unlink()
        packed.unlink()


def differences(wanted: Sequence[Symbol], built: dict[str, str]) -> str:
    """Say in one line what of a distribution's configuration is not in the one that was built.

    "" where all is.  Values besides y and m are not looked at: they tell of compilers, and of
    what was left out.
    """
    gone = [each for each in wanted if not each.asked and each.name not in built]
    modules = [each.name for each in gone if each.value == "m"]
    options = [each.name for each in gone if each.value == "y"]
    if not modules and not options:
        return ""
    counts = f"{counted(len(modules), 'module')} and {counted(len(options), 'option')}"
    seen = {name for asked, follow in visible.read_lists().values() for name in asked | follow}
    read = sorted(name.removeprefix("CONFIG_") for name in {*modules, *options} & seen)
    names = ", ".join(read[:SHOWN]) + ", ..." * (len(read) > SHOWN)
    return (
        f"of the distribution's configuration, {counts} are not there "
        f"(kernels/{DISTRIBUTION}.config leaves out most); "
        f"what KVM reads of them: {names or 'none'}"
    )
