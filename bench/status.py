"""``python -m bench.status PATH``: how far the cells of a folder are; see bench/sweep/status.py."""

import sys

from bench.sweep.status import main

if __name__ == "__main__":
    sys.exit(main())
