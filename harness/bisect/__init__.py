# SPDX-License-Identifier: GPL-2.0-only
"""Which patch of a series, or commit of a range, broke a test.

`search` knows the history, `verdicts` what runs say, `plan` what to do next, `bisection` does it;
`revisions` says what is searched, `state` keeps what was found, `ahead` builds what comes next,
`render` shows it.
"""
