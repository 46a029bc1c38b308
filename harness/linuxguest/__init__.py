# SPDX-License-Identifier: GPL-2.0-only
"""The parts of a whole confidential VM with Linux in it: firmware, kernel, initrd.

guests/linux/parts.toml names what can be chosen (catalogue); packages are fetched by apt and kept
by content (store); the initrd is made here (cpio, modules, initrd).  `parts.parts()` gives all.
"""
