# SPDX-License-Identifier: GPL-2.0-only
"""Templates, and what they can say: times, durations, colours."""

from __future__ import annotations

import base64
import functools
import hashlib
import time
from pathlib import Path

import jinja2
from markupsafe import Markup

from harness.history.render import took, when
from harness.history.schema import OUTCOMES
from harness.report.html import charts
from harness.report.words import counted

FOLDER = Path(__file__).parent / "templates"


@functools.cache
def environment() -> jinja2.Environment:
    """Return the environment: everything is escaped, and a misspelt name is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_own(name) for name in ("style.css", "filter.js"))
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}"
    made.globals.update(
        style=Markup(style),  # our own file
        script=Markup(script),
        policy=Markup(policy),
        outcomes=OUTCOMES,
        strip=charts.strip,
        bar=charts.bar,
        line=charts.line,
        day_bars=charts.day_bars,
        counted=counted,
    )
    made.filters.update(took=took, when=when, iso=_iso, day=_day, percent=_percent, short=_short)
    return made


def render(name: str, **values: object) -> str:
    """Render a template."""
    return environment().get_template(name).render(**values)


def _own(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _iso(started: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))


def _day(started: float) -> str:
    return _iso(started)[:10]


def _short(name: str) -> str:
    """Return a test's id without what all of them begin with."""
    return name.removeprefix("suites/")


def _percent(share: float) -> str:
    """Return a share so that little is told from nothing, and nearly all from all."""
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{share:.1%}".replace(".0%", "%")
