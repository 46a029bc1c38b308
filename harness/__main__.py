# SPDX-License-Identifier: GPL-2.0-only
"""`python -m harness`: what ./snptest starts once its environment stands."""

import sys

from harness.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
