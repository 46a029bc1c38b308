# SPDX-License-Identifier: GPL-2.0-only
"""Remote hosts under test: which there are, how they are reached, the agent on them."""
