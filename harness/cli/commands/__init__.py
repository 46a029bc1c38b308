# SPDX-License-Identifier: GPL-2.0-only
"""A module a command: options and help; what it does is imported when it is run."""
