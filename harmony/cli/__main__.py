"""`python -m harmony.cli`: the same as `harmony`, where its script is not on the path."""

from harmony.cli.main import main

main()
