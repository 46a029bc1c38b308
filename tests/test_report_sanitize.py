# SPDX-License-Identifier: GPL-2.0-only
"""Text from a target, made safe in one place."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from harness.report import sanitize


def test_escape_sequences_go() -> None:
    raw = "\x1b[1;31mred\x1b[0m \x1b]0;title\x07x \x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\ \x1bMy"
    assert sanitize.text(raw) == "red x link y"


def test_control_characters_become_visible() -> None:
    assert sanitize.text("a\x00b\x08c\x7fd\x85e\rf\tg\nh") == (
        "a\\x00b\\x08c\\x7fd\\x85e\\x0df\tg\nh"
    )


def test_half_utf8_becomes_visible() -> None:
    assert sanitize.text(b"ok \xe2\x82 \xff") == "ok \\xe2\\x82 \\xff"


def test_unterminated_title_takes_no_further_line() -> None:
    assert sanitize.text("a\x1b]0;never ended\nb") == "a\nb"


def test_bidirectional_overrides_cannot_disguise_a_line() -> None:
    assert "\u202e" not in sanitize.text("ok \u202e liaf")


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_fits_xml_utf8_and_a_line(raw: str) -> None:
    safe = sanitize.text(raw)
    element = ET.fromstring(ET.tostring(_element(safe), encoding="utf-8"))
    assert (element.text or "") == safe
    assert "\x1b" not in safe
    assert len(sanitize.line(raw).splitlines()) <= 1


@given(st.binary())
def test_any_bytes_become_text_that_stays(raw: bytes) -> None:
    safe = sanitize.text(raw)
    assert sanitize.text(safe) == safe


def _element(text: str) -> ET.Element:
    element = ET.Element("a")
    element.text = text
    return element


def test_tail_says_what_it_leaves_out() -> None:
    assert sanitize.tail("x" * 10, 4) == "[6 characters before this left out]\nxxxx"


def test_line_is_cut_with_an_ellipsis() -> None:
    assert sanitize.line("  one\n two  three", 8) == "one two…"
