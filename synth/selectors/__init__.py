"""Selectors: programs for heads that select keys or not, as those compiled from RASP do."""
