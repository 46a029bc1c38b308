# SPDX-License-Identifier: GPL-2.0-only
"""Makes the harness's options, fixtures and markers known to plain pytest too."""

import os

pytest_plugins = ("harness.plugin", "pytester")

os.environ["SNPTEST_HISTORY"] = ""  # runs that tests start are nobody's history
