# SPDX-License-Identifier: GPL-2.0-only
"""Series of the lists' archive: b4 gets a thread from a server here, and decides nothing."""

from __future__ import annotations

import gzip
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import BuildError, UsageError
from harness.kbuild import lore
from harness.kbuild.series import load_all
from tests.thread_mails import CASES, SEPARATOR, diff, mail, thread

ID = "20240329225835.400662-1-michael.roth@amd.com"


class Archive(http.server.ThreadingHTTPServer):
    """Answers as public-inbox and patchwork do: `pages` by path, `threads` by id."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, bytes] = {}
        self.found = b""
        """What a search finds."""
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, identifier: str, mails: list[str]) -> None:
        """Put a thread where the archive has it for one of its messages."""
        text = "\n".join(SEPARATOR + each for each in mails)
        self.pages[f"/all/{identifier.replace('@', '%40')}/t.mbox.gz"] = gzip.compress(
            text.encode()
        )


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Archive

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.pages.get(self.path)
        if content is None and "?x=m" in self.path and self.server.found:
            content = self.server.found
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        """Stay silent."""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """A server that b4 takes for lore.kernel.org."""
    home = tmp_path / "home"
    home.mkdir()
    server = Archive()
    (home / ".gitconfig").write_text(f"[b4]\n\tmidmask = {server.url}/all/%s\n")
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    worker = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    worker.start()
    yield server
    server.shutdown()
    server.server_close()
    worker.join(10)


@pytest.mark.parametrize(
    "spec",
    [
        ID,
        f"<{ID}>",
        f"Message-ID: <{ID}>",
        f"Message-Id:{ID}",
        f"id:{ID}",
        f"https://lore.kernel.org/kvm/{ID}/",
        f"https://lore.kernel.org/r/{ID.replace('@', '%40')}/T/#u",
        f"https://lore.kernel.org/all/{ID}/raw",
        f"https://lore.kernel.org/all/{ID}/t.mbox.gz",
        f"http://lkml.kernel.org/r/{ID}",
        f"https://lkml.kernel.org/r/{ID}/",
        f"https://patch.msgid.link/{ID}",
        f"https://patchwork.kernel.org/project/kvm/patch/{ID}/",
        f"https://patchwork.ozlabs.org/project/qemu-devel/patch/{ID}/mbox/",
        f"https://marc.info/?i={ID}",
    ],
)
def test_message_ids_are_known(spec: str) -> None:
    assert lore.message_id(spec) == ID


def test_odd_ids_are_known_where_they_are_marked() -> None:
    assert lore.message_id("<a/b=c@[10.0.0.1]>") == "a/b=c@[10.0.0.1]"
    assert lore.message_id("Message-ID: <x:y@host>") == "x:y@host"


def test_what_is_no_message_id() -> None:
    for spec in ("v1..v2", "patches", "https://example.org/a@b.org", "~/x@y/z", "git@host:x"):
        assert lore.message_id(spec) is None
    for spec in ("https://lore.kernel.org/kvm/", "https://lkml.kernel.org/"):
        with pytest.raises(UsageError, match="names no message") as caught:
            lore.message_id(spec)
        assert "<message id>" in caught.value.hint


def test_the_version_that_is_named_is_taken(archive: Archive) -> None:
    mails = thread("PATCH", 3, "a") + thread("PATCH v2", 3, "b", "a0@example.org", "long p")
    mails.append(mail("PATCH v2 2/3", "r@example.org", "a2@example.org").replace("[", "Re: [", 1))
    for identifier in ("a0@example.org", "a3@example.org", "b1@example.org"):
        archive.add(identifier, mails)
    for identifier in ("a0@example.org", "a3@example.org"):
        series = load_all([identifier])
        assert [b"(int p" in patch.diff for patch in series.patches] == [True] * 3
        assert series.label == "v1"
        assert series.notes == (
            f"{identifier}: v1 is taken, as named; there is also v2 (b0@example.org)",
        )
    series = load_all(["b1@example.org"])
    assert [b"(long p" in patch.diff for patch in series.patches] == [True] * 3
    assert "v2 is taken, as named; there is also v1" in series.notes[0]


def test_the_newest_is_taken_if_that_is_asked_for(archive: Archive) -> None:
    """Also where it is in a thread of its own."""
    archive.add("a2@example.org", thread("PATCH", 3, "a"))
    newer = "\n".join(SEPARATOR + each for each in thread("PATCH v4", 3, "b", use="long p"))
    archive.found = gzip.compress(newer.encode())
    series = load_all(["newest:a2@example.org"])
    assert any("?x=m" in path for path in archive.asked)
    assert series.label == "v4"
    assert series.notes == (
        "a2@example.org: v4 is taken, the newest; there is also v1 (a0@example.org)",
    )
    archive.asked.clear()
    assert load_all(["a2@example.org"]).label == "v1"
    assert not any("?x=m" in path for path in archive.asked)


def test_a_thread_with_a_hole_is_an_error(archive: Archive) -> None:
    mails = thread("PATCH", 3, "a")
    archive.add("a0@example.org", [mails[0], mails[1], mails[3]])
    with pytest.raises(UsageError, match=r"a0@example\.org: 2/3 of v1 is missing: KVM: SEV: all"):
        load_all(["a0@example.org"])


def test_a_single_patch_of_a_discussion(archive: Archive) -> None:
    mails = [mail("PATCH", "a@example.org", title="first")]
    body = diff(40, "long")
    mails.append(mail("PATCH", "b@example.org", "a@example.org", title="second", body=body))
    for identifier in ("a@example.org", "b@example.org"):
        archive.add(identifier, mails)
    series = load_all(["a@example.org"])
    assert [patch.subject for patch in series.patches] == ["first"]
    assert series.notes == ("a@example.org: not taken: second (b@example.org)",)
    assert [patch.subject for patch in load_all(["b@example.org"]).patches] == ["second"]


def test_an_answer_names_the_series_it_answers(archive: Archive) -> None:
    mails = thread("PATCH", 3, "a")
    mails.append(
        mail("PATCH 2/3", "r@example.org", "a2@example.org", body="Good.\n").replace(
            "[", "Re: [", 1
        )
    )
    mails.append("From: B <b@example.org>\nMessage-ID: <q@example.org>\nSubject: Hello\n\nHi.\n")
    archive.add("r@example.org", mails)
    archive.add("q@example.org", mails[-1:])
    assert len(load_all(["r@example.org"]).patches) == 3
    with pytest.raises(UsageError, match="holds no"):
        load_all(["q@example.org"])


def test_a_series_of_patchwork_is_downloaded(archive: Archive) -> None:
    plain = (CASES / "plain.mbox").read_bytes()
    archive.pages["/series/815/mbox/"] = plain
    for path in ("/project/kvm/list/?series=815", "/series/815/mbox/", "/series/815"):
        assert len(load_all([archive.url + path]).patches) == 3
    archive.pages["/patch/7/mbox/"] = mail("PATCH 2/3", "p@example.org").encode()
    series = load_all([f"{archive.url}/patch/7/"])
    assert series.notes == (f"{archive.url}/patch/7/ is 2/3 of its series, and taken alone",)
    archive.pages["/series/9/mbox/"] = b"\n<!doctype html><title>Are you a robot?</title>"
    with pytest.raises(BuildError, match="is a web page, not mails") as caught:
        load_all([f"{archive.url}/series/9/mbox/"])
    assert "message id of the cover letter" in caught.value.hint
    with pytest.raises(BuildError, match=r"/gone\.patch could not be downloaded"):
        load_all([f"{archive.url}/gone.patch"])


def fake_b4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "bin" / "b4"
    program.parent.mkdir()
    program.write_text(f"#!{shutil.which('python3')}\nimport sys\n{script}")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))


def test_b4_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_b4(tmp_path, monkeypatch, "print('Looking up'); print('no such host'); sys.exit(1)\n")
    with pytest.raises(BuildError) as caught:
        load_all(["id@example.org"])
    assert caught.value.message == "b4 could not get id@example.org: no such host"
    assert "offline?" in caught.value.hint


def test_a_thread_that_is_not_there_is_one_line(archive: Archive) -> None:
    with pytest.raises(BuildError, match=r"^b4 could not get gone@example\.org: ") as caught:
        load_all(["gone@example.org"])
    assert "\n" not in caught.value.message
