# SPDX-License-Identifier: GPL-2.0-only
"""Patch series as people have them: mails, folders, quilt, git ranges, the lists' archive."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.kbuild import choice, diffs, gitbase, lore, mails, thread
from harness.kbuild.choice import Wanted
from harness.kbuild.gitrun import run_git
from harness.kbuild.mails import Mail
from harness.kbuild.subject import parse
from harness.report import sanitize
from harness.report.words import counted

_AUTHOR = re.compile(rb"\s*From: ([^\n]+)\n")
_FILE_NUMBER = re.compile(r"(?:v\d+(?:\.\d+)?-)?(\d{1,6})(?=\D|$)")
_FORMATTED = re.compile(r"(?:(v\d+(?:\.\d+)?)-)?\d{4}-(.+)")
_VERSION = re.compile(r"v(\d{1,4})(?:\.(\d{1,4}))?")
_SUFFIXES = (".patch", ".diff", ".eml", ".mbox", ".mbx", ".patch.gz", ".mbox.gz")

ANYTHING = Wanted()
HINT = (
    "a series is a folder of patches or mails, a quilt series, an mbox, a maildir, a patch, "
    "REPOSITORY:A..B in git, or a message id of lore.kernel.org"
)


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch: what to call it, and its diff with whatever text came with it."""

    name: str
    diff: bytes
    subject: str = ""
    """Without "[PATCH n/m]"; "" where it is no mail."""
    author: str = ""

    @property
    def message(self) -> str:
        """What came before the diff: the log message, and what is below its "---"."""
        match = diffs.START.search(self.diff)
        text = self.diff[: match.start()] if match else self.diff
        return sanitize.text(text).strip()


@dataclass(frozen=True, slots=True)
class Series:
    """Patches in their order, and what is known of them as a series."""

    patches: tuple[Patch, ...] = ()
    notes: tuple[str, ...] = ()
    """What was decided, a line each: which version was taken, what else was there."""
    label: str = ""
    """The versions, "v2"; "" where nothing has any."""
    base_commit: str = ""
    """What the series says that it was made on: a commit, maybe abbreviated; "" if nothing."""
    prerequisites: tuple[str, ...] = ()
    """Ids (git patch-id --stable) of patches that it says it needs."""
    repository: Path | None = None
    """The repository that a range is of."""
    start: str = ""
    """The commit behind which a range begins."""


def patchset_hash(patches: Sequence[Patch]) -> str:
    """Hash a series as KCIDB does: sha256sum *.patch | cut -c-64 | sha256sum; "" of none."""
    if not patches:
        return ""
    lines = [f"{hashlib.sha256(patch.diff).hexdigest()}\n" for patch in patches]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def load_all(specs: Sequence[str | Path], repository: Path | None = None) -> Series:
    """Read several series, one after the other.

    Each is a path (with @v2 or @MESSAGE-ID behind it, what of it is meant), a message id or
    address of the list's archive (newest:ID for its newest version), or a range of commits:
    REPOSITORY:A..B, or A..B of `repository`, the one that the base lies in.
    """
    found = [_load(spec, repository) for spec in specs]
    patches = tuple(patch for each in found for patch in each.patches)
    needed = tuple(dict.fromkeys(each for series in found for each in series.prerequisites))
    lacking = _not_among(needed, patches)
    notes = [note for each in found for note in each.notes]
    if lacking:
        count = counted(len(lacking), "patch that is", "patches that are")
        ids = ", ".join(each[:12] for each in lacking)
        notes.append(f"the series needs {count} not given (prerequisite-patch-id {ids})")
    first = found[0] if found else Series()
    ranged = next((each for each in found if each.repository is not None), Series())
    return Series(
        patches,
        tuple(notes),
        ", ".join(dict.fromkeys(each.label for each in found if each.label)),
        first.base_commit,
        lacking,
        ranged.repository,
        first.start,
    )


def _load(spec: str | Path, repository: Path | None) -> Series:
    if spec in ("", "-"):
        raise UsageError(f"--series {spec!r} names nothing", HINT)
    path = Path(spec).expanduser()
    if isinstance(spec, Path) or path.exists():
        return read_series(path)
    newest, plain = spec.startswith("newest:"), spec.removeprefix("newest:")
    if newest and Path(plain).expanduser().exists():
        return read_series(Path(plain).expanduser())
    if (named := _version_of_file(plain)) is not None:
        return read_series(*named)
    if (identifier := lore.message_id(plain)) is not None:
        found = lore.fetch(identifier, newest=newest)
        return _chosen(identifier, found, Wanted(identifier=identifier, newest=newest))
    if lore.is_address(plain):
        downloaded = lore.download(plain)
        if len(downloaded) == 1:
            return _of_one(plain, downloaded[0], ANYTHING)
        return _chosen(plain, downloaded, ANYTHING)
    if ".." in spec.rpartition("/")[2] and spec not in ("..", "../"):
        return _range(spec, repository)
    return read_series(path)


def _version_of_file(spec: str) -> tuple[Path, Wanted] | None:
    """Take FILE@v2 or FILE@MESSAGE-ID apart, where the file is there."""
    position = spec.find("@")
    while position > 0:
        path, rest = Path(spec[:position]).expanduser(), spec[position + 1 :]
        if match := _VERSION.fullmatch(rest):
            if not path.exists():
                raise UsageError(f"{path} does not exist", HINT)
            return path, Wanted((int(match[1]), int(match[2] or 0)))
        if path.exists() and (identifier := lore.message_id(rest)) is not None:
            return path, Wanted(identifier=identifier)
        position = spec.find("@", position + 1)
    return None


def _range(spec: str, repository: Path | None) -> Series:
    where, colon, commits = spec.rpartition(":")
    if colon:
        repository = Path(where).expanduser()
    if repository is None:
        raise UsageError(
            f"--series {spec}: a range of which repository?",
            "REPOSITORY:A..B, or a --base that lies in git",
        )
    found = gitbase.commits_between(repository, commits)
    patches = tuple(Patch(sanitize.line(name), diff) for name, diff in found if diff)
    return Series(patches, repository=repository, start=gitbase.start_of(repository, commits))


def load_series(path: Path) -> list[Patch]:
    """Read the patches of a series in order; UsageError says what is wrong with it."""
    return list(read_series(path).patches)


def load_files(paths: Sequence[Path]) -> list[Patch]:
    """Read patches in the order given, whatever numbers they have."""
    return [_patch(_single(path, None)) for path in paths]


def read_series(path: Path, wanted: Wanted = ANYTHING) -> Series:
    """Read a series in order; UsageError says what is wrong with it.

    What has numbers n/m must be whole.  Of several versions the newest is taken, unless another
    is wanted; `notes` of the series say so.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist", HINT)
    if not path.is_file() and not path.is_dir():
        raise UsageError(
            f"{path} is a pipe or a device, which can be read once or not at all",
            "save what it gives to a file, and name that",
        )
    if path.is_file():
        found = mails.read(path)
        if len(found) == 1 and not wanted.identifier:
            return _of_one(path.name, found[0], wanted)
        return _chosen(path.name, found, wanted)
    if (quilt := _quilt_series(path)) is not None:
        if not quilt:
            raise UsageError(f"{path} holds no patch", "its file `series` lists none")
        return Series(tuple(_patch(_single(file, level)) for file, level in quilt))
    if all((path / each).is_dir() for each in ("cur", "new")):
        return _chosen(path.name, mails.read_maildir(path), wanted)
    return _of_folder(path, wanted)


def _of_one(where: str, mail: Mail, wanted: Wanted) -> Series:
    """Take the single patch of a file; it may be one of many."""
    found = _chosen(where, [mail], Wanted(wanted.version, alone=True))
    subject = parse(mail.subject)
    if subject.total is None or subject.total < 2:
        return found
    note = f"{where} is {subject.number}/{subject.total} of its series, and taken alone"
    return dataclasses.replace(found, notes=(*found.notes, note))


def _of_folder(path: Path, wanted: Wanted) -> Series:
    """Read the patches and mails of a folder, sorted by the numbers in their names."""
    files = sorted(_patch_files(path), key=_natural)
    contents = [(file, mail) for file in files for mail in mails.read(file)]
    found = [_with_version(file, mail) for file, mail in contents]
    if not any(diffs.has_diff(mail.text) for mail in found):
        without = next((mail for mail in found if not parse(mail.subject).reply), None)
        if without is not None and not _is_cover(without):
            raise UsageError(f"{path}: {without.name} holds no diff")
        raise UsageError(f"{path} holds no patch", f"patches end in {', '.join(_SUFFIXES[:4])}")
    for file, mail in contents:
        if not mail.is_mail and not diffs.has_diff(mail.text) and not _is_cover(mail):
            raise UsageError(f"{path}: {file.name} holds no diff")
    numbers = _numbers([file for file, mail in contents if _counts(mail)])
    if _is_stack(found, numbers) and not (wanted.version or wanted.identifier):
        series = _plain([mail for mail in found if _counts(mail)])
        note = f"{path.name}: subjects count several series; the names of the files rule"
        return Series(series.patches, (note,))
    series = _chosen(path.name, found, wanted)
    gap = _gap(numbers) if not any(parse(mail.subject).total for mail in found) else ""
    if gap:
        return dataclasses.replace(series, notes=(*series.notes, f"{path.name}: {gap}"))
    return series


def _patch_files(path: Path) -> list[Path]:
    shown = [each for each in path.iterdir() if not each.name.startswith(".")]
    for each in shown:
        if each.name.lower().endswith(_SUFFIXES) and not each.is_file():
            what = "a link to nothing" if each.is_symlink() and not each.exists() else "no file"
            raise UsageError(f"{path}: {each.name} is {what}", "a series must be whole")
    files = [each for each in shown if each.is_file()]
    named = [each for each in files if each.name.lower().endswith(_SUFFIXES)]
    if named:
        return named
    # As MH and some mailers keep mails: 1, 2, 3.
    return [each for each in files if not each.suffix and mails.looks_like_mail(_begin(each))]


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Return what sorts 2.patch before 10.patch."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]


def _with_version(file: Path, mail: Mail) -> Mail:
    """Give a bare diff the subject that its file's name tells: v2-0001-x.diff is version 2 of x."""
    match = _FORMATTED.match(file.name)
    if mail.is_mail or match is None:
        return mail
    return dataclasses.replace(mail, subject=f"[PATCH {match[1] or ''}] {match[2]}")


def _counts(mail: Mail) -> bool:
    """Whether a mail is a patch: no answer, no cover letter."""
    subject = parse(mail.subject)
    return not subject.reply and subject.number != 0 and diffs.has_diff(mail.text)


def _is_cover(mail: Mail) -> bool:
    return "cover-letter" in mail.name or parse(mail.subject).number == 0


def _numbers(files: Sequence[Path]) -> list[int]:
    """Return the numbers with which all names of files begin; none where one has none."""
    found = [_FILE_NUMBER.match(file.name) for file in files]
    return [int(match[1]) for match in found if match] if all(found) else []


def _is_stack(found: Sequence[Mail], numbers: list[int]) -> bool:
    """Whether somebody made one stack of several series' patches, and numbered the files anew."""
    subjects = [parse(mail.subject) for mail in found if _counts(mail)]
    keys = {(subject.version, subject.total) for subject in subjects}
    return (
        len(keys) > 1
        and len({version for version, _ in keys}) == 1
        and numbers == list(range(1, len(subjects) + 1))
    )


def _gap(numbers: list[int]) -> str:
    """Say which numbers of files are not there, if they look as if they should be."""
    absent = sorted(set(range(min(numbers), max(numbers))) - set(numbers)) if numbers else []
    if not absent or len(absent) >= len(numbers):
        return ""
    shown = ", ".join(map(str, absent))
    return f"no file has number {shown}: were they left out on purpose?"


def _quilt_series(path: Path) -> list[tuple[Path, int | None]] | None:
    """Return the files a quilt series lists, each with its -p; None where no file `series` is."""
    for folder in (path, path / "patches", path / "debian/patches"):
        listing = folder / "series"
        if not listing.is_file():
            continue
        files = []
        for number, line in enumerate(listing.read_text().splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            options = " ".join(words[1:]).replace("-p ", "-p")
            if options not in ("", "-p0", "-p1", "-pab"):
                raise UsageError(
                    f"{listing}:{number}: option {options}", "only -p0, -p1 and -pab are known"
                )
            file = folder / words[0]
            if not file.is_file():
                raise UsageError(f"{listing}:{number}: {words[0]} is not there")
            files.append((file, int(options[2:]) if options in ("-p0", "-p1") else None))
        return files
    return None


def _single(path: Path, level: int | None) -> tuple[Mail, int | None]:
    """Read a file that is one patch."""
    found = mails.read(path)
    if len(found) != 1:
        raise UsageError(f"{path} holds {len(found)} mails, where one patch is wanted")
    if not diffs.has_diff(found[0].text):
        raise UsageError(f"{path} holds no diff")
    return found[0], level


def _chosen(where: str, found: Sequence[Mail], wanted: Wanted) -> Series:
    """Choose the patches out of mails."""
    read = thread.read(found)
    if not read.postings:
        if len(found) == 1:
            raise UsageError(f"{found[0].name} holds no diff")
        raise UsageError(
            f"{where} holds no patch", f"{len(found)} mails, answers and cover letters"
        )
    chosen = choice.choose(where, read, wanted)
    patches = tuple(_patch((letter.mail, None)) for letter in chosen.letters)
    return Series(
        patches, tuple(chosen.notes), chosen.label, chosen.base_commit, chosen.prerequisites
    )


def _plain(found: Sequence[Mail]) -> Series:
    return Series(tuple(_patch((mail, None)) for mail in found))


def _patch(found: tuple[Mail, int | None]) -> Patch:
    """Make a patch of what was read, and of how many components its paths lose if that is known."""
    mail, level = found
    mails.check_alone(mail)
    text = diffs.normal(mail.name, mail.text, level)
    if not mail.is_mail:
        return Patch(mail.name, text)
    # Who sends is not who wrote, where the text itself begins with that.
    other = _AUTHOR.match(text)
    author = sanitize.line(other[1]) if other else mail.author
    return Patch(mail.name, text, parse(mail.subject).text or "no subject", author)


def _not_among(identifiers: tuple[str, ...], patches: tuple[Patch, ...]) -> tuple[str, ...]:
    """Return those ids of patches that none of these has."""
    if not identifiers:
        return ()
    given = set()
    for patch in patches:
        match = diffs.START.search(patch.diff)
        diff = patch.diff[match.start() :] if match else patch.diff
        out = run_git(["patch-id", "--stable"], Path("/"), {"LC_ALL": "C"}, diff)
        given |= {line.split()[0] for line in out.decode().splitlines() if line.strip()}
    return tuple(each for each in identifiers if each not in given)
