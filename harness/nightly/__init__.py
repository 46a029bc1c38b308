# SPDX-License-Identifier: GPL-2.0-only
"""Unattended runs: revisions times places times suites, as a queue over several hosts at once.

`schedule` reads what is wanted, `state` keeps what became of it, `night` does it, `judge` tells
what is new from what is known, flaky or fixed, `render` says it.
"""
