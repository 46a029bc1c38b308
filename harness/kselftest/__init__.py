# SPDX-License-Identifier: GPL-2.0-only
"""Upstream's KVM selftests: built from the tree a kernel was built from, run inside that kernel.

catalogue.py    which ones run unless others are named, and how long each may take
sources.py      the part of the tree that they are built from, and what it has
build.py        building them, cached by content
document.py     what they print: results, plan, totals
ktap_parse.py   from text to that
judge.py        from output and exit status to an outcome and a reason
"""
