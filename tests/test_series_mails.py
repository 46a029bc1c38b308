# SPDX-License-Identifier: GPL-2.0-only
"""Series as mailers, browsers and archives hand them over: the right patches, or one clear line."""

from __future__ import annotations

import base64
import bz2
import lzma
import os
from pathlib import Path

import pytest

from harness import kbuild
from harness.errors import UsageError, UserError
from harness.kbuild.series import Series, load_all, read_series
from harness.kbuild.subject import parse
from harness.kbuild.tree import KernelTree
from tests.fakekernel import git
from tests.thread_mails import (
    CASES,
    FILE,
    SEPARATOR,
    diff,
    mail,
    make_tree,
    thread,
    write_mbox,
)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "toy")


def applied(toy: Path, series: Series) -> list[str]:
    """Apply a series; return the lines of the file that differ from the base's."""
    tree = KernelTree(toy)
    last = kbuild.apply_series(tree, tree.git("rev-parse", "base"), list(series.patches))
    text = tree.git("diff", "-U0", "base", last)
    return [line[1:] for line in text.splitlines() if line.startswith("+int")]


THREE = [f"int line{20 * n}(int p{n});" for n in (1, 2, 3)]
LONG = [f"int line{20 * n}(long p{n});" for n in (1, 2, 3)]
NAMES = [f"KVM: SEV: change {n}" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("plain.mbox", NAMES),
        ("resend.mbox", NAMES),
        ("dup.mbox", NAMES),
        ("coverdiff.mbox", NAMES),
        ("leadingnl.mbox", NAMES),
        ("nofromfirst.mbox", NAMES),
        ("attach64.mbox", NAMES),
        ("disclaimer.mbox", ["c1", "c2", "c3"]),
        ("t.mbox.gz", NAMES),
        ("emls", NAMES),
        ("noprefix.patch", NAMES),
        ("raw-crlf.diff", [""]),
    ],
)
def test_three_patches_come_of_each_case(toy: Path, case: str, names: list[str]) -> None:
    series = load_all([CASES / case])
    assert [patch.subject for patch in series.patches] == names
    assert applied(toy, series) == THREE
    assert series.notes == ()


def test_a_hole_is_named(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.mbox: 2/3 of v1 is missing: series") as caught:
        load_all([CASES / "missing.mbox"])
    assert "quilt" in caught.value.hint
    mails = thread("PATCH v3", 5, "a")
    box = write_mbox(tmp_path / "box", [mails[n] for n in (0, 2, 5)])
    with pytest.raises(UsageError, match=r"box: 1/5, 3/5, 4/5 of v3 are missing: KVM: SEV: all"):
        load_all([box])
    write_mbox(box, mails[5:])
    with pytest.raises(UsageError, match=r"box: 1/5 to 4/5 of v3 are missing: KVM: SEV: change 5"):
        load_all([f"{box}@a5@example.org"])


def test_a_hole_in_a_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "patches"
    folder.mkdir()
    for n in (1, 3):
        (folder / f"{n:04}-x.patch").write_text(mail(f"PATCH {n}/3"))
    with pytest.raises(UsageError, match="patches: 2/3 of v1 is missing"):
        load_all([folder])
    # A list says that it is meant.
    (folder / "series").write_text("0001-x.patch\n0003-x.patch\n")
    assert len(load_all([folder]).patches) == 2


def test_numbers_of_files_with_a_gap_are_told(tmp_path: Path) -> None:
    for n in (1, 2, 4):
        (tmp_path / f"{n}.diff").write_text(diff(20 * n, "int p"))
    series = load_all([tmp_path])
    assert [patch.name for patch in series.patches] == ["1.diff", "2.diff", "4.diff"]
    assert series.notes == (
        f"{tmp_path.name}: no file has number 3: were they left out on purpose?",
    )


def test_one_file_of_a_series_is_taken_alone(tmp_path: Path) -> None:
    path = tmp_path / "0002-x.patch"
    path.write_text(mail("PATCH 2/3"))
    series = load_all([path])
    assert len(series.patches) == 1
    assert series.notes == ("0002-x.patch is 2/3 of its series, and taken alone",)


def test_files_are_sorted_by_their_numbers(toy: Path) -> None:
    series = load_all([CASES / "unpadded"])
    assert [patch.name for patch in series.patches] == [f"{n}.patch" for n in range(1, 13)]
    assert applied(toy, series)[-1] == "int line60(int q12);"


def test_of_versions_the_newest_is_taken_and_said(toy: Path) -> None:
    path = CASES / "v1v2.mbox"
    series = load_all([path])
    assert (applied(toy, series), series.label) == (LONG, "v2")
    assert series.notes == ("v1v2.mbox: v2 is taken, the newest; there is also v1 (c@x.org)",)
    for spec in (f"{path}@v1", f"{path}@p2@x.org", f"{path}@<c@x.org>"):
        older = load_all([spec])
        assert (applied(toy, older), older.label) == (THREE, "v1")
        assert older.notes == ("v1v2.mbox: v1 is taken, as named; there is also v2 (v2c@x.org)",)
    with pytest.raises(UsageError, match=r"v1v2\.mbox holds no v3") as caught:
        load_all([f"{path}@v3"])
    assert caught.value.hint == "it holds v1 and v2"
    with pytest.raises(UsageError, match=r"holds no message z@example\.org"):
        load_all([f"{path}@z@example.org"])
    with pytest.raises(UsageError, match=r"gone\.mbox does not exist"):
        load_all(["gone.mbox@v2"])


def test_a_file_may_have_an_at_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "job@2"
    folder.mkdir()
    path = write_mbox(folder / "a@v1", thread("PATCH v1", 2, "a") + thread("PATCH v2", 2, "b"))
    assert load_all([path]).label == "v2"
    assert load_all([str(path)]).label == "v2"
    assert load_all([f"{path}@v1"]).label == "v1"


def test_versions_side_by_side_in_a_folder(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for n in (1, 2, 3):
        (folder / f"000{n}-x.patch").write_text(mail(f"PATCH {n}/3"))
        text = mail(f"PATCH v2 {n}/3", body=diff(20 * n, f"long p{n}"))
        (folder / f"v2-000{n}-x.patch").write_text(text)
    series = load_all([folder])
    assert applied(toy, series) == LONG
    assert series.notes == ("out: v2 is taken, the newest; there is also v1 (3 patches)",)
    assert applied(toy, load_all([f"{folder}@v1"])) == THREE
    for path in folder.iterdir():
        text = path.read_text()
        path.write_text(text[text.index("diff") :])
    series = load_all([folder])  # by the names of the files alone
    assert applied(toy, series) == LONG
    assert "v2 is taken" in series.notes[0]


def test_an_rfc_is_older_than_the_patches(tmp_path: Path) -> None:
    mails = thread("RFC PATCH", 2, "a") + thread("PATCH", 2, "b", use="long p")
    series = load_all([write_mbox(tmp_path / "box", mails)])
    assert series.label == "v1"
    assert series.notes == ("box: v1 is taken, the newest; there is also RFC v1 (a0@example.org)",)


def test_two_forms_of_one_version_are_refused(tmp_path: Path) -> None:
    box = tmp_path / "box"
    write_mbox(box, thread("PATCH", 2, "a") + thread("PATCH", 2, "b", use="long p"))
    with pytest.raises(UsageError, match=r"box holds v1 2 times, with differences: a0@"):
        load_all([box])
    assert len(load_all([f"{box}@b2@example.org"]).patches) == 2
    mails = thread("PATCH", 3, "a")
    mails.append(mail("PATCH 2/3", "z@example.org", "a0@example.org", body=diff(40, "char c")))
    with pytest.raises(UsageError, match="2/3 of v1 is there twice, and differs: a2@"):
        load_all([write_mbox(box, mails)])


def test_copies_with_other_ids_and_footers_count_once(toy: Path, tmp_path: Path) -> None:
    mails = thread("PATCH", 3, "a")
    footer = "-- \n2.39.5\n_______________________\nlist mailing list\nhttps://example.org/\n"
    for n in (1, 2, 3):
        body = diff(20 * n, f"int p{n}")
        text = mail(f"PATCH {n}/3", f"l{n}@list", "l0@list", body=body, footer=footer)
        mails.append(text.replace("\n", "\r\n"))
    series = load_all([write_mbox(tmp_path / "box", mails)])
    assert (applied(toy, series), series.notes) == (THREE, ())


def test_a_resend_that_differs_is_the_newer_one(toy: Path, tmp_path: Path) -> None:
    mails = thread("PATCH", 3, "a") + thread("PATCH RESEND", 3, "b", use="long p")
    series = load_all([write_mbox(tmp_path / "box", mails)])
    assert (applied(toy, series), series.label) == (LONG, "v1 RESEND")
    mails = thread("PATCH", 3, "a")
    mails[2] = mails[2].replace("[PATCH 2/3]", "[PATCH RESEND 2/3]")
    series = load_all([write_mbox(tmp_path / "box", mails)])
    assert applied(toy, series) == THREE
    assert series.notes == ("box: 2/3 is there as a RESEND alone, which is taken",)


def test_a_partial_reroll_is_said(toy: Path, tmp_path: Path) -> None:
    mails = thread("PATCH", 3, "a")
    body = diff(40, "long p2")
    mails.append(mail("PATCH v2 2/3", "b2@example.org", "a2@example.org", body=body))
    box = write_mbox(tmp_path / "box", mails)
    series = load_all([box])
    assert applied(toy, series) == [THREE[0], LONG[1], THREE[2]]
    assert series.notes[0] == "box: v2 is a reroll of 2/3 alone; the rest is taken of v1"
    assert applied(toy, load_all([f"{box}@v1"])) == THREE
    body = diff(60, "long p3")
    mails.append(mail("PATCH v3 3/3", "c3@example.org", "a3@example.org", body=body))
    series = load_all([write_mbox(box, mails)])
    assert applied(toy, series) == [THREE[0], LONG[1], LONG[2]]
    # One that answers something else is no reroll, but a series with holes.
    mails = thread("PATCH", 3, "a")
    mails.append(mail("PATCH v2 2/3", "b2@example.org", "a0@example.org", body=diff(40, "long")))
    with pytest.raises(UsageError, match="1/3, 3/3 of v2 are missing"):
        load_all([write_mbox(box, mails)])


def test_patches_sent_on_top_are_taken_and_said(toy: Path, tmp_path: Path) -> None:
    """As 21/23 to 23/23 were sent behind the 20 of a version."""
    mails = thread("PATCH v4", 2, "a")
    mails += [
        mail(
            f"PATCH v4 {n}/4", f"m{n}@example.org", "a0@example.org", body=diff(20 * n, f"int p{n}")
        )
        for n in (3, 4)
    ]
    box = write_mbox(tmp_path / "box", mails)
    for spec in (str(box), f"{box}@a0@example.org", f"{box}@m4@example.org"):
        series = load_all([spec])
        assert applied(toy, series) == [*THREE, "int line80(int p4);"]
        assert series.notes == ("box: 3/4, 4/4 came behind the first 2, and are taken",)
    write_mbox(box, mails[:-1])
    with pytest.raises(UsageError, match=r"box: 1/4, 2/4, 4/4 of v4 are missing"):
        load_all([f"{box}@m3@example.org"])


def test_a_patch_without_a_version_has_that_of_its_cover_letter(toy: Path, tmp_path: Path) -> None:
    mails = thread("PATCH v3", 3, "a")
    mails[1] = mails[1].replace("[PATCH v3 1/3]", "[PATCH 1/3]")
    series = load_all([write_mbox(tmp_path / "box", mails)])
    assert (applied(toy, series), series.label, series.notes) == (THREE, "v3", ())


def test_of_damaged_copies_the_whole_one_is_taken(toy: Path, tmp_path: Path) -> None:
    """As a gateway made them that put a mail into itself several times."""
    mails = thread("PATCH", 3, "a")
    heads, _, body = mails[2].partition("\n\n")
    wrapped = f"{heads}\n\nX-Sender: x\n\n{body}\n{mails[2]}"
    for box in ([wrapped, *mails], [*mails, wrapped]):
        series = load_all([write_mbox(tmp_path / "box", box)])
        assert (applied(toy, series), series.notes) == (THREE, ())


def test_an_id_of_two_versions_names_neither(tmp_path: Path) -> None:
    mails = [
        mail("PATCH 1/1", "same@example.org"),
        mail("PATCH v2 1/1", "same@example.org", body=diff(20, "long p1")),
    ]
    box = write_mbox(tmp_path / "box", mails)
    with pytest.raises(
        UsageError, match=r"same@example\.org is the id of several mails: of v1 and v2"
    ) as caught:
        load_all([f"{box}@same@example.org"])
    assert "FILE@v2" in caught.value.hint
    assert load_all([f"{box}@v1"]).label == "v1"


def test_a_mail_that_somebody_else_sent_on_is_one(tmp_path: Path) -> None:
    """With its own id, into another thread: both are the same patch."""
    one = mail("PATCH", "x@example.org")
    again = mail("PATCH", "x@example.org", "a0@example.org", sender="B <b@example.org>")
    box = write_mbox(tmp_path / "box", [one, *thread("PATCH", 2, "a")[:1], again])
    assert len(load_all([f"{box}@x@example.org"]).patches) == 1


def test_several_series_that_answer_one_cover_letter(tmp_path: Path) -> None:
    """As one for the kernel and one for a tool: patches of one are in one thread."""
    mails = thread("PATCH v3", 3, "a")
    for n in (1, 2):
        text = mail(f"TOOL v3 {n}/2", f"t{n}@example.org", "a0@example.org", title="tool: change")
        mails.append(text)
    series = load_all([f"{write_mbox(tmp_path / 'box', mails)}@t2@example.org"])
    assert [patch.subject for patch in series.patches] == ["tool: change 1", "tool: change 2"]
    assert series.notes == ("box: v3 is taken, as named; there is also v3 (a0@example.org)",)
    assert len(load_all([f"{tmp_path / 'box'}@a0@example.org"]).patches) == 3


def test_what_others_sent_into_the_thread_is_not_taken(toy: Path, tmp_path: Path) -> None:
    mails = thread("PATCH", 3, "a")
    other = "Somebody Else <else@example.org>"
    body = diff(80, "char c")
    mails += [
        mail("PATCH", "x@example.org", "a2@example.org", body=body, title="other", sender=other),
        mail("PATCH 2/3", "r@example.org", "a2@example.org", body=body).replace("[", "Re: [", 1),
    ]
    box = write_mbox(tmp_path / "box", mails)
    series = load_all([box])
    assert applied(toy, series) == THREE
    assert series.notes == ("box: not taken: other (1 patch)",)
    assert [each.subject for each in load_all([f"{box}@x@example.org"]).patches] == ["other"]
    with pytest.raises(UsageError, match=r"r@example\.org is an answer with a diff of its own"):
        load_all([f"{box}@r@example.org"])


def test_patches_attached_to_an_answer_are_an_answer(toy: Path, tmp_path: Path) -> None:
    """As a reviewer attaches what he would do instead; alone, they are what is meant."""
    heads = (
        "From: B <b@example.org>\nMessage-ID: <r@example.org>\nIn-Reply-To: <a2@example.org>\n"
        "Subject: Re: [PATCH 2/3] KVM: SEV: change 2\n"
    )
    attached = [
        f"Content-Type: text/x-patch\n\n{mail(f'PATCH {n}/2', body=diff(20 * n, f'long p{n}'))}"
        for n in (1, 2)
    ]
    answer = heads + multipart("multipart/mixed", "\nRather so.\n", *attached)
    series = load_all([write_mbox(tmp_path / "box", [*thread("PATCH", 3, "a"), answer])])
    assert (applied(toy, series), series.notes) == (THREE, ())
    (tmp_path / "answer.eml").write_text(answer)
    assert applied(toy, load_all([tmp_path / "answer.eml"])) == LONG[:2]


def test_series_that_have_nothing_in_common_follow_each_other(tmp_path: Path) -> None:
    second = [each.replace("KVM: SEV", "KVM: x86") for each in thread("PATCH", 2, "b")]
    box = write_mbox(tmp_path / "box", thread("PATCH", 3, "a") + second)
    series = load_all([box])
    subjects = [patch.subject for patch in series.patches]
    assert subjects == [*NAMES, "KVM: x86: change 1", "KVM: x86: change 2"]
    assert series.notes == (
        "box holds 2 series: KVM: SEV: all (3 patches), then KVM: x86: all (2 patches)",
    )
    write_mbox(box, thread("PATCH", 3, "a") + second[:2])
    with pytest.raises(UsageError, match="2/2 of v1 is missing: KVM: x86: all"):
        load_all([box])


def test_a_stack_made_by_hand_is_as_its_files_say(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    folder.mkdir()
    for n, tag in enumerate(("PATCH 2/5", "PATCH", "PATCH 1/2"), 1):
        (folder / f"{n:04}-x.patch").write_text(mail(tag, body=diff(20 * n, "int p")))
    series = load_all([folder])
    assert [patch.name[:4] for patch in series.patches] == ["0001", "0002", "0003"]
    assert series.notes == ("stack: subjects count several series; the names of the files rule",)


@pytest.mark.parametrize("begin", ["\n\n", "\ufeff", "\ufeff\r\n", ""])
def test_an_mbox_may_begin_with_anything(toy: Path, tmp_path: Path, begin: str) -> None:
    box = write_mbox(tmp_path / "box", thread("PATCH", 3, "a"))
    box.write_text(begin + box.read_text())
    assert applied(toy, load_all([box])) == THREE


@pytest.mark.parametrize("between", ["", "\n", "\n\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_joined_eml_files_are_taken_apart(
    toy: Path, tmp_path: Path, between: str, end: str
) -> None:
    mails = [f"Return-Path: <a@example.org>\n{each}" for each in thread("PATCH", 3, "a")]
    path = tmp_path / "all.eml"
    path.write_bytes(between.join(mails).replace("\n", end).encode())
    series = load_all([path])
    assert applied(toy, series) == THREE
    assert len(series.patches) == 3


def test_mails_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    heads = "Subject: [PATCH {n}/2] x\n\nWhy.\n---\n"
    path = tmp_path / "odd"
    path.write_text("".join(heads.format(n=n) + diff(20 * n, "int p") for n in (1, 2)))
    with pytest.raises(UsageError, match=r"odd holds several mails that cannot be told apart"):
        load_all([path])


def test_log_messages_may_hold_what_they_like(toy: Path, tmp_path: Path) -> None:
    mails = thread("PATCH", 3, "a")
    said = (
        "From now on at 10:00 in 2026\nnothing is as it was:\n\n"
        ">From the mailbox.\n\nSubject: x\nFrom: nobody\n\n--- a\n\n"
    )
    mails[1] = mails[1].replace("Because.\n", said)
    series = load_all([write_mbox(tmp_path / "box", mails)])
    assert applied(toy, series) == THREE
    assert "From now on at 10:00 in 2026" in series.patches[0].message
    assert "\nFrom the mailbox." in series.patches[0].message


@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress, bytes])
def test_what_is_packed_is_known_by_its_content(toy: Path, tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    path = tmp_path / "t.mbox.gz"  # a browser may have unpacked it
    path.write_bytes(pack((CASES / "plain.mbox").read_bytes()))
    assert applied(toy, load_all([path])) == THREE


def test_files_that_are_no_mails_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.mbox.gz"
    path.write_bytes((CASES / "t.mbox.gz").read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"t\.mbox\.gz is damaged"):
        load_all([path])
    path.write_bytes(b"\x28\xb5\x2f\xfdxxxx")
    with pytest.raises(UsageError, match="packed file of another kind"):
        load_all([path])
    path.write_text("\n<!DOCTYPE html><html>thread</html>")
    with pytest.raises(UsageError, match="is a web page") as caught:
        load_all([path])
    assert "t.mbox.gz" in caught.value.hint


def multipart(kind: str, *parts: str) -> str:
    body = "".join(f"--XX\n{part}\n" for part in parts)
    return f"MIME-Version: 1.0\nContent-Type: {kind}; boundary=XX\n\n{body}--XX--\n"


def test_patches_in_any_part_of_a_mail(toy: Path, tmp_path: Path) -> None:
    heads = "From: A Developer <a@example.org>\nSubject: [PATCH] all\n"
    patches = [mail(f"PATCH {n}/3") for n in (1, 2, 3)]
    attached = [
        "Content-Type: application/octet-stream; name=x.patch\n"
        "Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(each.encode()).decode()
        for each in patches
    ]
    path = tmp_path / "one.eml"
    path.write_text(heads + multipart("multipart/mixed", "\nHello.\n", *attached))
    series = load_all([path])
    assert (applied(toy, series), len(series.patches)) == (THREE, 3)
    forwarded = [f"Content-Type: message/rfc822\n\n{each}" for each in patches]
    path.write_text(heads + multipart("multipart/mixed", "\nHello.\n", *forwarded))
    assert [patch.subject for patch in load_all([path]).patches] == NAMES
    bare = [f"Content-Type: text/x-diff\n\n{diff(20 * n, f'int p{n}')}" for n in (1, 2, 3)]
    path.write_text(heads + multipart("multipart/mixed", *bare))
    series = load_all([path])
    assert (applied(toy, series), len(series.patches)) == (THREE, 3)
    text = f"Content-Type: text/plain\n\n{diff(20, 'int p1')}"
    page = f"Content-Type: text/html\n\n<pre>{diff(20, 'int p1')}</pre>"
    path.write_text(heads + multipart("multipart/alternative", text, page))
    assert applied(toy, load_all([path])) == THREE[:1]
    path.write_text(heads + multipart("multipart/mixed", page))
    with pytest.raises(UsageError, match="holds no diff"):
        load_all([path])


def test_transfer_encodings_keep_the_line_ends_of_the_sources(tmp_path: Path) -> None:
    text = diff(20, "int p1").replace("(void);\n", "(void);\r\n")  # headers have none
    path = tmp_path / "x.patch"
    body = base64.encodebytes(text.encode()).decode()
    path.write_text(f"Subject: [PATCH] x\nContent-Transfer-Encoding: base64\n\n{body}")
    (patch,) = load_all([path]).patches
    assert patch.diff.count(b"\r\n") == text.count("\r\n") > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [("i/", "w/"), ("c/", "w/"), ("o/", "w/"), ("c/", "i/"), ("", ""), ("linux.orig/", "linux/")],
)
@pytest.mark.parametrize("git_line", [True, False])
def test_paths_of_all_kinds_are_understood(
    toy: Path, tmp_path: Path, old: str, new: str, git_line: bool
) -> None:
    text = diff(20, "int p1").replace(f" a/{FILE}", f" {old}{FILE}")
    text = text.replace(f" b/{FILE}", f" {new}{FILE}")
    if not git_line:
        text = text.partition("\n")[2]
    path = tmp_path / "x.diff"
    path.write_text(text)
    assert applied(toy, load_all([path])) == THREE[:1]


@pytest.mark.parametrize("options", [[], ["--no-prefix"], ["-c", "diff.mnemonicPrefix=true"]])
def test_renames_and_odd_names(toy: Path, tmp_path: Path, options: list[str]) -> None:
    config, flags = (options, []) if "-c" in options else ([], options)
    (toy / "a").mkdir()
    (toy / "a/with blank.c").write_text("int a;\nint b;\nint c;\n")
    (toy / "b").mkdir()
    git(toy, "add", ".")
    git(toy, "commit", "-q", "-m", "more")
    git(toy, "mv", FILE, "a/sev.c")
    git(toy, "mv", "a/with blank.c", "b/with blank.c")
    (toy / "b/with blank.c").write_text("int a;\nint b;\nint d;\n")
    (toy / "Kconfig").write_text("mainmenu y\n")
    git(toy, "add", ".")
    path = tmp_path / "x.diff"
    path.write_text(git(toy, *config, "diff", "--cached", "-M40%", *flags) + "\n")
    (patch,) = load_all([path]).patches
    wanted = git(toy, "write-tree")
    tree = KernelTree(toy)
    assert tree.tree_of(tree.apply("HEAD", [("x", patch.diff)])) == wanted


def test_new_files_without_prefix(toy: Path, tmp_path: Path) -> None:
    new = "--- /dev/null\n+++ {}arch/new.c\n@@ -0,0 +1,2 @@\n+--- a/x\n++++ b/x\n"
    path = tmp_path / "x.diff"
    path.write_text("diff --git arch/new.c arch/new.c\nnew file mode 100644\n" + new.format(""))
    for text in (path.read_text(), new.format("b/")):
        path.write_text(text)
        (patch,) = load_all([path]).patches
        tree = KernelTree(toy)
        last = tree.apply("base", [("x", patch.diff)])
        assert tree.git("show", f"{last}:arch/new.c") == "--- a/x\n+++ b/x"
    path.write_text(new.format(""))  # of which arch/ may be a prefix
    with pytest.raises(UsageError, match=r"is arch/new\.c to be applied with -p0 or -p1\?"):
        load_all([path])
    (tmp_path / "series").write_text("x.diff -p0\n")
    assert b"+++ b/arch/new.c" in load_all([tmp_path]).patches[0].diff
    (tmp_path / "series").write_text("x.diff -p1\n")
    assert b"+++ b/new.c" in load_all([tmp_path]).patches[0].diff


def test_prefixes_that_are_mixed_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.diff"
    path.write_text(diff(20, "int") + diff(40, "int").replace(" a/", " ").replace(" b/", " "))
    with pytest.raises(UsageError, match="some paths begin with a/ and b/, some with nothing"):
        load_all([path])


def test_a_folder_may_be_a_mailer_s(toy: Path, tmp_path: Path) -> None:
    for n, text in enumerate(reversed(thread("PATCH", 3, "a")), 9):
        (tmp_path / str(n)).write_text(text)
    (tmp_path / ".mh_sequences").write_text("unseen: 9\n")
    assert applied(toy, load_all([tmp_path])) == THREE


@pytest.mark.parametrize(
    ("raw", "label", "number", "total"),
    [
        ("[PATCH RFC v3 02/10] x", "RFC v3", 2, 10),
        ("[RFC PATCH 1/3] x", "RFC v1", 1, 3),
        ("[PATCHv2 3/4] x", "v2", 3, 4),
        ("[PATCH-v2, 3/4] x", "v2", 3, 4),
        ("[PATCH v4.1 03/12] x", "v4.1", 3, 12),
        ("[PATCH][v2] x", "v2", None, None),
        ("[kvm-next] [PATCH V5 0/9] x", "v5", 0, 9),
        ("[RESEND PATCH v2] x [v9 7/8]", "v2 RESEND", None, None),
        ("x", "v1", None, None),
    ],
)
def test_subjects(raw: str, label: str, number: int | None, total: int | None) -> None:
    found = parse(raw)
    assert (found.label, found.number, found.total) == (label, number, total)
    assert found.text.partition(" ")[0] == "x"
    assert not found.reply
    for before in ("Re: ", "RE: ", "Aw: ", "Antw: ", "SV: ", "Fwd: ", "Re[2]: "):
        assert parse(before + raw).reply


def test_what_is_needed_besides_is_named(toy: Path, tmp_path: Path) -> None:
    git(toy, "checkout", "-q", "-b", "topic")
    first = tmp_path / "first.patch"
    first.write_text(mail("PATCH", body=diff(80, "int before")))
    git(toy, "apply", str(first))
    git(toy, "commit", "-q", "-a", "-m", "before")
    (toy / FILE).write_text((toy / FILE).read_text().replace("line20(void)", "line20(int p1)"))
    git(toy, "commit", "-q", "-a", "-m", "topic")
    out = tmp_path / "out"
    git(toy, "format-patch", "-q", "-1", "--base=base", "-o", str(out))
    series = load_all([out])
    assert series.base_commit == git(toy, "rev-parse", "base")
    (needed,) = series.prerequisites
    assert series.notes == (
        f"the series needs 1 patch that is not given (prerequisite-patch-id {needed[:12]})",
    )
    both = load_all([first, out])
    assert (both.notes, both.prerequisites) == ((), ())


def test_an_input_full_of_nonsense_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.mbox"
    for content in (b"", b"\n", b"From \n", SEPARATOR.encode(), b"\xff\xfe\x00" * 50, b"Subject:"):
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read_series(path)
        assert "\n" not in caught.value.message


QUOTED = "From: B <b@example.org>\nSubject: {subject}\nMessage-ID: <old@example.org>\n\nIt fails.\n"


@pytest.mark.parametrize("form", ["mbox", "folder", "file"])
@pytest.mark.parametrize("subject", ["Re: old thing", "[PATCH 0/5] an old series"])
@pytest.mark.parametrize("tag", ["PATCH", "PATCH 2/2"])
def test_a_message_may_quote_a_mail(tmp_path: Path, form: str, subject: str, tag: str) -> None:
    """Its headers, as `git format-patch` leaves them at the begin of lines, end no mail."""
    first = mail(tag.replace("2/", "1/"), "1@x.org", body=diff(20, "int p1"), title="one")
    second = mail(tag, "2@x.org", body=diff(40, "int p2"), title="two")
    second = second.replace("Because.\n", f"This was reported:\n\n{QUOTED.format(subject=subject)}")
    path = tmp_path / "series"
    if form == "mbox":
        write_mbox(path, [first, second])
    elif form == "folder":
        path.mkdir()
        (path / "0001-one.patch").write_text(first)
        (path / "0002-two.patch").write_text(second)
    else:
        path = tmp_path / "joined.eml"
        path.write_text(f"{first}\n{second}")
    patches = read_series(path).patches
    assert [each.subject.split()[0] for each in patches] == ["one", "two"]
    assert [b"int p1" in each.diff for each in patches] == [True, False]
    assert b"It fails." in patches[1].diff


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_file_in_a_folder_is_not_left_out(tmp_path: Path, kind: str) -> None:
    (tmp_path / "0001-one.patch").write_text(mail("PATCH", "1@x.org"))
    odd = tmp_path / "0002-two.patch"
    match kind:
        case "link":
            odd.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(odd)
        case _:
            odd.mkdir()
    with pytest.raises(UsageError, match=r"0002-two\.patch is (a link to nothing|no file)"):
        read_series(tmp_path)


def test_what_can_be_read_once_is_refused(tmp_path: Path) -> None:
    """As <(b4 am -o - ID) is: a build reads its series more than once."""
    os.mkfifo(tmp_path / "pipe")
    for spec in (str(tmp_path / "pipe"), "/dev/null"):
        with pytest.raises(UsageError, match="is a pipe or a device"):
            load_all([spec])
    for spec in ("", "-"):
        with pytest.raises(UsageError, match="names nothing"):
            load_all([spec])
