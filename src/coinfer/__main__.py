"""`python -m coinfer` is the `coinfer` command."""

from coinfer.cli.main import main

main()
