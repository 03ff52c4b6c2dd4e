"""`python -m coinfer` is the `coinfer` command."""

from coinfer.cli import main

main()
