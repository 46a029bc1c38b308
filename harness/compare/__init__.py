# SPDX-License-Identifier: GPL-2.0-only
"""Two revisions, or two runs of the past, held against each other."""
