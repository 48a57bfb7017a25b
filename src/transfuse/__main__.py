"""`python -m transfuse`, the same as the command."""

from transfuse.cli.main import run

if __name__ == "__main__":
    run()
