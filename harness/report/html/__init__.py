# SPDX-License-Identifier: GPL-2.0-only
"""Static HTML of stored runs: pages for each, and an overview of all.

A page is one file: no script, font or picture from elsewhere, light or dark as the reader's
system is.  Those that are opened first (index.html, run-N.html) have a size that does not grow
with what is stored; lists behind them are as many pages as it takes (pack.py), for a page that is
a local file cannot load anything later.

Everything that a target printed is escaped by Jinja2, and a content security policy in each page
lets only our own style and script through, by their hashes.
"""
