# SPDX-License-Identifier: GPL-2.0-only
"""Images of the test guest: sizes, hashes, and the launch digest of one with a vCPU."""

from __future__ import annotations

import argparse
import sys

from harness.guestimage import Flavour, GuestImageError, load, write_prebuilt
from harness.vm import launch_digest


def main() -> int:
    """Print what the images are; the exit code is 3 when one can't be had."""
    parser = argparse.ArgumentParser(prog="python -m harness.vm", description=__doc__)
    parser.add_argument("--prebuilt", action="store_true", help="renew guests/prebuilt/")
    options = parser.parse_args()
    try:
        if options.prebuilt:
            write_prebuilt()
        for flavour in Flavour:
            image = load(flavour)
            print(f"{flavour}: {len(image.data)} bytes, sha256 {image.sha256} ({image.origin})")
        digest = launch_digest.default_digest(load(Flavour.SNP))
        print(f"launch digest (1 vCPU, default features): {digest.hex()}")
    except GuestImageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
