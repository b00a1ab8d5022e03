"""`python -m assets`: the command line of `assets.cli`."""

import sys

from assets.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
