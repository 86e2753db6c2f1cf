"""Runs: heads shared out over workers, and what is found kept on disk and summed up."""
