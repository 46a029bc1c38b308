# SPDX-License-Identifier: GPL-2.0-only
"""Reports of a run, all from one stream of results: live, summary, JSON lines, JUnit, KTAP."""
