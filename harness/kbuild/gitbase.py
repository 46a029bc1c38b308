# SPDX-License-Identifier: GPL-2.0-only
"""A revision of a git repository, here or elsewhere, as a base; and its ranges as a series."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildError, UsageError
from harness.kbuild.gitrun import GitError, run_git
from harness.kbuild.progress import Progress
from harness.kbuild.tree import KernelTree
from harness.report import sanitize

FETCH_TIMEOUT = 1800.0
LOOK_TIMEOUT = 30.0
_URL = re.compile(r"(?:https?|git|ssh|file)://.+|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^@]+")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_USERS = {
    "LC_ALL": "C",
    # Nobody is there to type a password.
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=30",
}
"""On top of the user's own environment and configuration: proxies, keys, rewritten addresses."""


@dataclass(frozen=True, slots=True)
class GitRevision:
    """One revision of a repository: `where` is a path or a URL."""

    where: str
    revision: str

    @property
    def source(self) -> str | None:
        """No directory as it is."""
        return None

    def __str__(self) -> str:
        return f"{sanitize.address(self.where)}@{self.revision}"

    def commit_of(self, tree: KernelTree, progress: Progress) -> str:
        """Return the commit in our tree, fetching it (without its history) where it is new."""
        wanted = self.revision
        if not is_url(self.where):
            wanted = resolve_revision(Path(self.where), self.revision)
        if not (_COMMIT.fullmatch(wanted) and tree.commit_of(wanted)):
            progress.stage(f"fetching {self}")
            wanted = self._fetch(tree, wanted, progress)
        digest = hashlib.sha256(f"{self.where} {wanted}".encode()).hexdigest()[:16]
        tree.git("update-ref", f"refs/snptest/base/git-{digest}", wanted)
        return wanted

    def public_url(self, commit: str) -> str:
        """Return where anybody can fetch a commit, an https address; "" where that is not known.

        Of a repository on this machine it is that of its origin, once that is known to have it.
        """
        address = self.where
        try:
            if not is_url(address):
                look = ["for-each-ref", "--count=1", f"--contains={commit}", "refs/remotes/origin"]
                if not run_git(look, Path(self.where), {"LC_ALL": "C"}, timeout=LOOK_TIMEOUT):
                    return ""
                get = ["remote", "get-url", "origin"]
                address = run_git(get, Path(self.where), {"LC_ALL": "C"}).decode().strip()
        except GitError:
            return ""
        address = re.sub(r"^git://git\.kernel\.org/", "https://git.kernel.org/", address)
        # Names and passwords are nobody's business.
        return address if re.fullmatch(r"https://[^@\s]+", address) else ""

    def _fetch(self, tree: KernelTree, wanted: str, progress: Progress) -> str:
        if is_url(self.where):
            try:
                return _fetched(tree, self.where, wanted)
            except GitError as error:
                raise BuildError(
                    f"{self} could not be fetched: {error.reason}",
                    "is the address reachable from here, and the revision a branch, tag or commit?",
                ) from None
        path = Path(self.where).resolve()
        check_object_format(path, tree)
        try:
            # git, which has just read the repository for us, asks anew whether it may: whether
            # its .git is safe, which who says so of the folder has not said.
            upload = "--upload-pack=git -c 'safe.directory=*' upload-pack"
            return _fetched(tree, path.as_uri(), wanted, upload)
        except GitError as error:
            origins = promisors(path)
            for address in origins:  # what a partial clone lacks is where it was cloned from
                progress.stage(f"fetching {wanted[:12]} from {sanitize.address(address)}")
                with contextlib.suppress(GitError):
                    return _fetched(tree, address, wanted)
            if origins:
                raise BuildError(
                    f"{self}: {path} is a partial clone (--filter), which lacks files of it, and "
                    f"{sanitize.address(origins[0])} does not give it",
                    f"have git fetch them: git -C {shlex.quote(str(path))} worktree add --detach "
                    f"FOLDER {shlex.quote(self.revision)}; then --base FOLDER",
                ) from None
            raise BuildError(
                f"{self} could not be fetched: {error.reason}",
                "does git itself read that repository? (git fsck)",
            ) from None


def _fetched(tree: KernelTree, address: str, wanted: str, *more: str) -> str:
    """Fetch a revision into our tree: a commit of its own, no tags, no history; return it."""
    options = ["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60", "-c", "gc.auto=0"]
    fetch = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--force"]
    ref = "refs/snptest/fetched"
    environment = {name: os.environ.get(name, value) for name, value in _USERS.items()}
    arguments = [*options, *fetch, *more, "--", address, f"+{wanted}:{ref}"]
    run_git(arguments, tree.path, environment, timeout=FETCH_TIMEOUT)
    return tree.git("rev-parse", "--verify", f"{ref}^{{commit}}")


def promisors(path: Path) -> list[str]:
    """Return where a partial clone gets what it lacks; nothing of another repository."""
    found = []
    try:
        get = ["config", "--get-regexp", r"^remote\..*\.promisor$", "true"]
        for line in run_git(get, path, {"LC_ALL": "C"}).decode(errors="replace").splitlines():
            name = line.partition(" ")[0].removeprefix("remote.").removesuffix(".promisor")
            address = run_git(["remote", "get-url", name], path, {"LC_ALL": "C"}).decode().strip()
            found.append(address if is_url(address) else (path / address).resolve().as_uri())
    except GitError:
        pass  # it has none
    return found


def check_object_format(path: Path, tree: KernelTree) -> None:
    """Raise UsageError where a repository names its objects otherwise than ours does."""
    show = ["rev-parse", "--show-object-format"]
    formats = [run_git(show, each, {"LC_ALL": "C"}).decode().strip() for each in (path, tree.path)]
    if formats[0] != formats[1]:
        raise UsageError(
            f"{path} has {formats[0]} objects, of which git fetches none into {formats[1]}",
            "check the revision out there, and name the directory alone: --base PATH",
        )


def is_url(text: str) -> bool:
    """Whether a --base is an address that git can fetch from."""
    return _URL.fullmatch(text) is not None


def is_repository(path: Path) -> bool:
    """Whether a directory is the top of a git work tree, or a bare repository."""
    return (path / ".git").exists() or ((path / "HEAD").is_file() and (path / "objects").is_dir())


def resolve_revision(path: Path, revision: str) -> str:
    """Return the commit of a revision in the user's repository; UsageError where none is."""
    if not is_repository(path):
        raise UsageError(f"{path} is no git repository", "a revision needs one")
    try:
        arguments = [
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            f"{revision}^{{commit}}",
        ]
        return run_git(arguments, path, {"LC_ALL": "C"}).decode().strip()
    except GitError as error:
        reason = error.reason if str(error) else f"git knows no revision {revision} there"
        raise UsageError(f"{path}: {reason}", f"see: git -C {path} log --oneline") from None


def start_of(path: Path, spec: str) -> str:
    """Return the commit behind which a range A..B begins: A, or where B left it."""
    first, _, last = spec.partition("..")
    arguments = ["merge-base", first, last or "HEAD"]
    try:
        return run_git(arguments, path, {"LC_ALL": "C"}).decode().strip()
    except GitError:
        return ""  # they have nothing in common


def commits_between(path: Path, spec: str) -> list[tuple[str, bytes]]:
    """Return the commits of A..B, oldest first, each as its subject and its diff.

    UsageError: git knows no such range, it is empty, or holds a merge.
    """
    first, _, last = spec.partition("..")
    if not first or last.startswith("."):
        raise UsageError(f"--series {spec}: a range is A..B", "the commits of B that A has not")
    bounds = [resolve_revision(path, each) for each in (first, last or "HEAD")]
    listing = ["rev-list", "--reverse", "--topo-order", "--parents", f"{bounds[0]}..{bounds[1]}"]
    lines = run_git(listing, path, {"LC_ALL": "C"}).decode().splitlines()
    if not lines:
        raise UsageError(f"--series {spec}: no commit is in that range", f"see: git log {spec}")
    found = []
    for line in lines:
        commit, *parents = line.split()
        show = ["show", "--no-patch", "--no-show-signature", "--format=%h %s", commit]
        name = run_git(show, path, {"LC_ALL": "C"}).decode(errors="replace").strip()
        if not parents:
            raise UsageError(
                f"--series {spec}: {name} has no parent in {path}: its history ends there",
                f"of a shallow clone, fetch the rest: git -C {path} fetch --unshallow",
            )
        if len(parents) != 1:
            raise UsageError(
                f"--series {spec}: {name} is a merge, not a patch", "rebase it, or name its parts"
            )
        diff = [
            *("diff-tree", "-p", "--binary", "--full-index", "--no-renames", "--no-color"),
            *("--no-ext-diff", "--no-textconv", parents[0], commit),
        ]
        found.append((name, run_git(diff, path, {"LC_ALL": "C"})))
    return found
