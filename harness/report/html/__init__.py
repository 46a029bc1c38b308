# SPDX-License-Identifier: GPL-2.0-only
"""Static HTML of stored runs: a page for each, and an overview of all.

A page is one file: no script, font or picture from elsewhere, light or dark as the reader's system
is.  Everything that a target printed is escaped by Jinja2, and a content security policy in each
page lets only our own style and script through, by their hashes.
"""
