# SPDX-License-Identifier: GPL-2.0-only
"""The file that the history is: where it lies, how it is opened, and what can be wrong with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness import places
from harness.errors import UserError
from harness.history import schema

BUSY = 10.0
"""Seconds to wait for another process that writes."""
NAME = "history.db"
LITTLE = 1 << 16
"""Bytes that are too few for what SQLite keeps beside the file while it is open."""
_ROOM = "make room"
_DAMAGED = "move it away; `snptest history import` fills a new one from the folders of results"


def default_path() -> Path | None:
    """Return where the history is kept; None where there is to be none.

    $SNPTEST_HISTORY names the file (empty: none is kept).  Otherwise it lies beside the results
    where $SNPTEST_RESULTS puts them elsewhere, and in $XDG_STATE_HOME/snptest if not.
    """
    named = os.environ.get("SNPTEST_HISTORY")
    if named is not None:
        return Path(named).expanduser() if named else None
    return (places.results() or places.state()) / NAME


class History:
    """An open history.  Closed by `with`; not to be shared between threads or over a fork."""

    def __init__(self, path: Path, connection: sqlite3.Connection, busy: float) -> None:
        self.path = path
        self.db = connection
        self.busy = busy

    @classmethod
    def open(cls, path: Path | None = None, *, make: bool = True, busy: float = BUSY) -> Self:
        """Open a history, made or brought up to date if need be; the default one unless named.

        busy: seconds to wait for others.  UserError: there is none (and make is False), it is
        locked, damaged, of a newer snptest, not a history, or cannot be written.
        """
        path = path or default_path()
        if path is None:
            raise UserError("no history is kept: SNPTEST_HISTORY is empty", "--db names a file")
        if not make and not path.exists():
            raise UserError(
                f"there is no history yet: {path} does not exist",
                "`snptest run` makes it; `snptest history import FOLDER...` takes in old results",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make {path.parent}: {error.strerror}") from None
        with told(path, busy):
            connection = sqlite3.connect(path, timeout=busy, isolation_level=None)
        history = cls(path, connection, busy)
        try:
            with told(path, busy):
                history._prepare()
        except BaseException:
            connection.close()
            raise
        return history

    def _prepare(self) -> None:
        self._check()
        self.db.execute("PRAGMA journal_mode = WAL")
        # One sync a second and run costs nothing, and a crash of the machine then takes no
        # transaction, NORMAL those since the last checkpoint, and with them whole runs.
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("PRAGMA cache_size = -65536")
        if self._version() < len(schema.MIGRATIONS):
            self._migrate()

    def _version(self) -> int:
        return int(self.one("PRAGMA user_version")[0])

    def _check(self) -> None:
        """Refuse what is not ours, or of a newer snptest."""
        version, known = self._version(), len(schema.MIGRATIONS)
        application = int(self.one("PRAGMA application_id")[0])
        tables = int(self.one("SELECT count(*) FROM sqlite_master")[0])
        if application != schema.APPLICATION and (tables or application or version):
            raise UserError(f"{self.path} is no history of snptest", "--db names another file")
        if version > known:
            raise UserError(
                f"{self.path} was written by a newer snptest (version {version} of its tables; "
                f"this one knows {known})",
                "use that snptest, or another file (--db)",
            )

    def _migrate(self) -> None:
        """Bring the tables up to date, all of it or nothing."""
        with self.writing():
            for script in schema.MIGRATIONS[self._version() :]:  # another may have been faster
                for statement in statements(script):
                    self.db.execute(statement)
            self.db.execute(f"PRAGMA application_id = {schema.APPLICATION}")
            self.db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")

    # Questions --------------------------------------------------------------------------

    def all(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[Any]:
        """Return all rows."""
        with told(self.path, self.busy):
            return self.db.execute(sql, values).fetchall()

    def one(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> Any:
        """Return the first row; None where there is none."""
        with told(self.path, self.busy):
            return self.db.execute(sql, values).fetchone()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """See the history as it is now, whatever others write meanwhile."""
        with told(self.path, self.busy):
            self.db.execute("BEGIN")
            try:
                yield
            finally:
                self.db.execute("COMMIT")

    @contextlib.contextmanager
    def writing(self, wait: float | None = None) -> Iterator[None]:
        """Write: all of it, or nothing where the block raises.  UserError: it is locked, or full.

        wait: seconds to wait for another writer, instead of those given at the opening.
        """
        seconds = self.busy if wait is None else wait
        with told(self.path, seconds):
            self.db.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
            try:
                self.db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self.db.execute("COMMIT")
                except BaseException:
                    if self.db.in_transaction:
                        self.db.execute("ROLLBACK")
                    raise
            finally:
                self.db.execute(f"PRAGMA busy_timeout = {int(self.busy * 1000)}")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Do what is no part of a transaction (VACUUM)."""
        with told(self.path, self.busy):
            yield

    def close(self) -> None:
        """Close it; what was begun and not ended is taken back."""
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Locked(UserError):
    """Another process has been writing for longer than one was ready to wait."""


@contextlib.contextmanager
def told(path: Path, busy: float) -> Iterator[None]:
    """Turn what SQLite complains of into one line and a hint."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        primary = code & 0xFF if code is not None else None
        match primary:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                raise Locked(
                    f"{path} has been locked by another process for {busy:g} s",
                    f"`fuser {path}` tells which; try again when it is done",
                ) from None
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                raise UserError(f"{path} is damaged: {error}", _DAMAGED) from None
            case sqlite3.SQLITE_FULL:
                raise UserError(f"no space left for {path}", _ROOM) from None
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                raise UserError(
                    f"cannot open {path}: {error}", "is it, with its folder, yours to write?"
                ) from None
            case sqlite3.SQLITE_IOERR if _free(path) < LITTLE:
                # The index of the write-ahead log does not fit: SQLite says no more than this.
                raise UserError(f"no space left for {path}", _ROOM) from None
            case sqlite3.SQLITE_IOERR:
                raise UserError(f"{path} cannot be read or written: {error}") from None
            case sqlite3.SQLITE_PROTOCOL | sqlite3.SQLITE_NOLFS:
                raise UserError(
                    f"the file system of {path} cannot lock or hold it: {error}",
                    "SNPTEST_HISTORY names a file on a local disk, not on NFS or a share",
                ) from None
        raise


def _free(path: Path) -> int:
    """Return how many bytes may be written beside a file; more than enough if not known."""
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return 1 << 62


def statements(script: str) -> Iterator[str]:
    """Split a script, each of whose statements ends a line.

    executescript() would end the transaction that they are to be part of.
    """
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
