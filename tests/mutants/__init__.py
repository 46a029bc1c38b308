# SPDX-License-Identifier: GPL-2.0-only
"""Named one-line breakages of the emulator, and the suite tests that must catch each."""
