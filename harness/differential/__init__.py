# SPDX-License-Identifier: GPL-2.0-only
"""The same operations on the emulator and on a real kernel, and what differs between them."""
