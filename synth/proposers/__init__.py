"""Proposers that work on terms as a user would write them."""
