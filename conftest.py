# SPDX-License-Identifier: GPL-2.0-only
"""Makes the harness's options, fixtures and markers known to plain pytest too."""

pytest_plugins = ("harness.plugin", "pytester")
