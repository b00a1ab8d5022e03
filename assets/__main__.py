"""`python -m assets`: the command `isogloss`."""

import sys

from assets.cli import main

if __name__ == "__main__":
    sys.exit(main())
