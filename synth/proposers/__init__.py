"""Proposers: the registry of all, and the one of the library."""
