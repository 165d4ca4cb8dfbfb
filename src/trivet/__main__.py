"""`python -m trivet` is the command line."""

from trivet.cli import main

main()
