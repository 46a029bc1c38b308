# SPDX-License-Identifier: GPL-2.0-only
"""From a source tarball to a commit, by git's fast-import, without a file unpacked."""

from __future__ import annotations

import contextlib
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from harness.kbuild.gitrun import GIT_TIMEOUT, IDENTITY, GitError, inherited

_DECOMPRESSORS = {".xz": ("xz", "-dc", "-T0"), ".zst": ("zstd", "-dcq"), ".gz": ("gzip", "-dc")}


def import_tarball(
    repository: Path, tarball: Path, ref: str, progress: Callable[[int], None]
) -> None:
    """Make a commit of a tarball's content, its top directory stripped, and call it `ref`.

    GitError where the tarball is damaged or odd; then nothing is left behind.
    """
    stream = subprocess.Popen(
        ["git", "fast-import", "--quiet", "--depth=1"],
        cwd=repository,
        env={**inherited(), **IDENTITY},
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


@contextlib.contextmanager
def _decompressed(tarball: Path) -> Iterator[IO[bytes]]:
    """Open a tarball for streaming; what decompresses it runs beside us (xz: everywhere)."""
    command = _DECOMPRESSORS.get(tarball.suffix)
    if command is None:
        with tarball.open("rb") as content:
            yield content
        return
    with subprocess.Popen(
        [*command, str(tarball)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        yield process.stdout
        while process.stdout.read(1 << 20):
            pass  # tar's padding: it must reach its end, or it would die of a closed pipe
        complaint = process.stderr.read().decode(errors="replace").strip()
        if process.wait(GIT_TIMEOUT):
            raise GitError(complaint or f"{command[0]} could not read {tarball}")


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
