"""Lets `python -m attn_dsl.cli` run the command line."""

from attn_dsl.cli.main import main

main()
