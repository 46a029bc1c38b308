# SPDX-License-Identifier: GPL-2.0-only
"""Where things are kept, with HOME and XDG_* as services, containers and mistakes have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import guestimage, places
from harness.emulator import rmp_fast
from harness.errors import UserError
from harness.history import store
from harness.kbuild import cache


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "SNPTEST_RESULTS", "SNPTEST_HISTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SNPTEST_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")


def test_a_relative_path_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of a run have another directory: they would not find what was built."""
    assert places.cache() == Path("/home/somebody/.cache/snptest")
    for name, value in (("XDG_CACHE_HOME", "cache"), ("XDG_STATE_HOME", "./state")):
        monkeypatch.setenv(name, value)
    assert places.cache() == Path("/home/somebody/.cache/snptest")
    assert places.state() == Path("/home/somebody/.local/state/snptest")
    monkeypatch.setenv("XDG_CACHE_HOME", "/big/cache")
    assert places.cache() == Path("/big/cache/snptest")


def test_one_place_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    expected = Path("/home/somebody/.cache/snptest")
    assert cache.root() == rmp_fast.cache_directory() == expected
    assert guestimage.cache_directory() == expected / "guests"


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker run --user 12345`: "~" would be a folder of that name, wherever it runs."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 12345)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UserError, match="user 12345 has none") as caught:
        places.cache()
    assert caught.value.hint == "set HOME or XDG_CACHE_HOME"
    monkeypatch.setenv("XDG_CACHE_HOME", "/big/cache")
    assert places.cache() == Path("/big/cache/snptest")


def test_results_are_where_they_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pytest runs in the tree: a relative path is of the directory of who asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNPTEST_RESULTS", "out")
    assert places.results() == tmp_path / "out"
    assert store.default_path() == tmp_path / "out/history.db"
    monkeypatch.setenv("SNPTEST_RESULTS", "")
    assert places.results() is None
    assert store.default_path() == Path("/home/somebody/.local/state/snptest/history.db")
