"""`python -m autometa.cli` does what the console script does."""

from autometa.cli import main

main()
