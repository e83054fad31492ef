"""``python -m bench.dryrun KEY=VALUE ...``: what a grid would run; see bench/sweep/dryrun.py."""

import sys

from bench.sweep.dryrun import main

if __name__ == "__main__":
    sys.exit(main())
