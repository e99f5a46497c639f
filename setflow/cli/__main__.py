"""`python -m setflow.cli` is `setflow`."""

from setflow.cli import main

main()
