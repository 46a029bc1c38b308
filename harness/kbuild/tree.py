# SPDX-License-Identifier: GPL-2.0-only
"""The one work tree in which kernels are built, kept in git.

Base sources become commits by a fast import straight from the tarball, series become
commits on top of them, made in an index of their own.  The work tree only ever moves by
`git checkout`: a file that does not change keeps its time stamp, and make and ccache
rebuild what differs and nothing else.  (Unpacking a tarball over the tree would bring
back old time stamps and leave stale objects.)  All commits are reproducible: author and
dates are pinned.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from harness.errors import UserError

GIT_TIMEOUT = 600.0
_IDENTITY = {
    "GIT_AUTHOR_NAME": "snptest",
    "GIT_AUTHOR_EMAIL": "snptest@localhost",
    "GIT_AUTHOR_DATE": "1700000000 +0000",
    "GIT_COMMITTER_NAME": "snptest",
    "GIT_COMMITTER_EMAIL": "snptest@localhost",
    "GIT_COMMITTER_DATE": "1700000000 +0000",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "LC_ALL": "C",
}


class GitError(Exception):
    """A git command failed; the message is what it printed."""


class KernelTree:
    """A git repository of kernel sources with one work tree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / ".git").is_dir():
            path.mkdir(parents=True, exist_ok=True)
            self.git("init", "-q", "--initial-branch=snptest")
            # Kernel trees are big and short-lived here: time counts for more than disk.
            self.git("config", "core.compression", "1")
            self.git("config", "gc.auto", "0")
            self.git("config", "core.autocrlf", "false")

    def git(
        self,
        *arguments: str,
        stdin: bytes = b"",
        index: Path | None = None,
        timeout: float = GIT_TIMEOUT,
    ) -> str:
        """Run git in the repository and return what it printed; GitError when it fails."""
        out = self._git(arguments, stdin, index, timeout)
        return out.decode(errors="replace").strip()

    def _git(
        self, arguments: tuple[str, ...], stdin: bytes, index: Path | None, timeout: float
    ) -> bytes:
        environment = {**os.environ, **_IDENTITY}
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
            environment.pop(name, None)
        if index is not None:
            environment["GIT_INDEX_FILE"] = str(index)
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self.path,
                env=environment,
                input=stdin,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError:
            raise UserError("git is not installed", "apt-get install git") from None
        if done.returncode:
            raise GitError((done.stderr or done.stdout).decode(errors="replace").strip())
        return done.stdout

    def commit_of(self, name: str) -> str | None:
        """Return the commit of a name, None where there is none."""
        try:
            return self.git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        except GitError:
            return None

    def tree_of(self, commit: str) -> str:
        """Return the hash of a commit's content."""
        return self.git("rev-parse", f"{commit}^{{tree}}")

    def checkout(self, commit: str) -> None:
        """Move the work tree to a commit, touching only files that differ."""
        lock = self.path / ".git" / "index.lock"
        # The caller holds the cache's lock: whoever left this one behind was killed.
        lock.unlink(missing_ok=True)
        self.git("checkout", "--quiet", "--force", "--detach", commit)

    def import_tarball(
        self, tarball: Path, ref: str, progress: Callable[[int], None] = lambda count: None
    ) -> str:
        """Make a commit of a tarball's content (its top directory stripped); return it."""
        stream = subprocess.Popen(
            ["git", "fast-import", "--quiet", "--depth=1"],
            cwd=self.path,
            env={**os.environ, **_IDENTITY},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert stream.stdin is not None
        assert stream.stderr is not None
        try:
            with stream.stdin as sink:
                with _decompressed(tarball) as content:
                    _write_commit(content, sink, ref, tarball.name, progress)
                # Only now: without it fast-import drops what a damaged tarball left behind.
                sink.write(b"done\n")
        except (tarfile.TarError, EOFError) as error:
            stream.kill()
            raise GitError(f"{tarball.name} is damaged: {error}") from None
        except BrokenPipeError:
            raise GitError(stream.stderr.read().decode(errors="replace").strip()) from None
        except BaseException:
            stream.kill()
            raise
        finally:
            complaint = stream.stderr.read().decode(errors="replace").strip()
            stream.stderr.close()
            stream.wait(GIT_TIMEOUT)
        if stream.returncode:
            raise GitError(complaint)
        return self.git("rev-parse", "--verify", ref)

    def apply(self, base: str, patches: list[tuple[str, bytes]]) -> str:
        """Apply diffs in order on top of a commit, one commit each; return the last.

        The work tree is not touched.  PatchError names the first that does not apply.
        """
        commit = base
        with tempfile.TemporaryDirectory(prefix="snptest-index-") as scratch:
            index = Path(scratch) / "index"
            self.git("read-tree", base, index=index)
            for name, diff in patches:
                try:
                    self.git(
                        "apply", "--cached", "--whitespace=nowarn", "-", stdin=diff, index=index
                    )
                except GitError as error:
                    raise PatchError(name, diff, str(error)) from None
                tree = self.git("write-tree", index=index)
                commit = self.git("commit-tree", tree, "-p", commit, "-m", name)
        return commit

    def diff(self, old: str, new: str, paths: list[str]) -> bytes:
        """Return the diff of some paths between two commits."""
        arguments = ("diff", "--binary", "--full-index", "--no-renames", old, new, "--", *paths)
        return self._git(arguments, b"", None, GIT_TIMEOUT)


class PatchError(Exception):
    """A patch does not apply; `summary` names patch, file and hunk."""

    def __init__(self, name: str, diff: bytes, output: str) -> None:
        self.name = name
        self.output = output
        self.summary = _first_complaint(name, diff, output)
        super().__init__(self.summary)


def _first_complaint(name: str, diff: bytes, output: str) -> str:
    """Say which file and hunk of a patch git complained of."""
    for line in output.splitlines():
        text = line.removeprefix("error: ")
        if text.startswith("patch failed: "):
            file, _, number = text.removeprefix("patch failed: ").rpartition(":")
            return f"{name} does not apply: {file}, hunk {_hunk(diff, file, number)}"
        if text.startswith("corrupt patch"):
            return f"{name} is damaged: {text}"
        if ": " in text and not text.endswith("patch does not apply"):
            return f"{name} does not apply: {text}"
    return f"{name} does not apply: {output or 'git gave no reason'}"


def _hunk(diff: bytes, file: str, number: str) -> str:
    """Find the hunk header for a file's old line number: '2 of 5 (@@ -10,7 +10,8 @@ f)'."""
    hunks: list[str] = []
    inside = False
    for raw in diff.decode(errors="replace").splitlines():
        if raw.startswith(("--- a/", "+++ b/")):
            inside = raw[6:].split("\t")[0] == file or (inside and raw.startswith("+++"))
        elif inside and raw.startswith("@@ -"):
            hunks.append(raw)
    for position, header in enumerate(hunks, 1):
        if header[4:].split(" ")[0].split(",")[0] == number:
            return f"{position} of {len(hunks)} ({header})"
    return f"at line {number}"


@contextlib.contextmanager
def _decompressed(tarball: Path) -> Iterator[IO[bytes]]:
    """Open a tarball for streaming; xz is decompressed by xz(1), on all processors."""
    if tarball.suffix != ".xz":
        with tarball.open("rb") as content:
            yield content
        return
    with subprocess.Popen(
        ["xz", "-dc", "-T0", str(tarball)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as xz:
        assert xz.stdout is not None
        assert xz.stderr is not None
        yield xz.stdout
        while xz.stdout.read(1 << 20):
            pass  # tar's padding: xz must reach its end, or it would die of a closed pipe
        complaint = xz.stderr.read().decode(errors="replace").strip()
        if xz.wait(GIT_TIMEOUT):
            raise GitError(complaint or f"xz could not read {tarball}")


def _write_commit(
    content: IO[bytes], sink: IO[bytes], ref: str, name: str, progress: Callable[[int], None]
) -> None:
    """Translate a tar stream into one commit of git's fast-import language."""
    message = name.encode()
    identity = b"snptest <snptest@localhost> 1700000000 +0000"
    sink.write(b"feature done\ncommit %s\ncommitter %s\n" % (ref.encode(), identity))
    sink.write(b"data %d\n%s\ndeleteall\n" % (len(message), message))
    with tarfile.open(fileobj=content, mode="r|*") as archive:
        for count, member in enumerate(archive):
            path = "/".join(member.name.removeprefix("./").split("/")[1:])
            if not path or member.isdir():
                continue
            quoted = _quote(path)
            if member.issym():
                target = member.linkname.encode()
                sink.write(b"M 120000 inline %s\ndata %d\n%s\n" % (quoted, len(target), target))
            elif member.isreg():
                source = archive.extractfile(member)
                assert source is not None
                mode = b"100755" if member.mode & stat.S_IXUSR else b"100644"
                sink.write(b"M %s inline %s\ndata %d\n" % (mode, quoted, member.size))
                sink.write(source.read())
                sink.write(b"\n")
            else:
                raise GitError(f"{name} holds {member.name}, which is no file, link or directory")
            if count % 500 == 0:
                progress(count)


def _quote(path: str) -> bytes:
    """Quote a path for fast-import where it needs to be."""
    if path.startswith('"') or "\n" in path:
        escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return b'"' + escaped.encode() + b'"'
    return path.encode()
