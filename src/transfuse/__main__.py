"""`python -m transfuse`, the same as the command."""

import sys

from transfuse.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
