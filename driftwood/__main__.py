"""`python -m driftwood`: the command line."""

from driftwood.cli import main

if __name__ == "__main__":
    main()
