"""Tests of the subcommands, through `main` as the console script calls it."""
