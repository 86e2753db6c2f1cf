"""Limits: how large and how costly programs may be, and where values are cut off."""

MAX_NODES = 5_000
"""The largest program that runs, in nodes (set elements included)."""
MAX_COST = 10_000
"""The costliest program that runs, in operations per pair of query and key."""
MAX_WEIGHT = 1_000.0
"""The largest magnitude of a weight."""
MAX_ELEMENT_WEIGHT = 100.0
"""The largest magnitude of the weight of a set's element."""
MAX_INTEGER = 100_000
"""The largest magnitude of a whole number; so no sum in a program can overflow."""
MAX_SOURCE = 1_000_000
"""The longest source, in characters, that is read."""
MAX_NESTING = 40
"""The deepest nesting of parentheses that is read."""
MAX_OPERATORS = 100
"""The most operators (``and``, ``or``, ``not``, ``+``, ``-``) in one term."""
MAX_DIGITS = 400
"""The longest number, in digits, that is read."""
TERM_LIMIT = 10_000.0
"""The largest magnitude that one term adds to a score."""
MATCH_LIMIT = 32
"""The longest matching context that ``match`` counts."""
LEAST_MASS = 1e-300
"""The smallest mass that a term of a ``linear`` program adds; smaller ones count as 0."""
