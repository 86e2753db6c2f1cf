"""Limits: the largest size and cost of programs, and the bounds of their values."""

MAX_NODES = 5_000  # the largest program that runs, in nodes (set elements included)
MAX_COST = 10_000  # the costliest program that runs, in operations per pair of query and key
MAX_WEIGHT = 1_000.0  # the largest magnitude of a weight
MAX_ELEMENT_WEIGHT = 100.0  # the largest magnitude of the weight of a set's element
MAX_INTEGER = 100_000  # the largest magnitude of a whole number; so no sum can overflow
MAX_LENGTH = 64  # the longest prefix or suffix of a symbol, in characters
MAX_NUMBER = 999_999  # the largest number that ``number`` reads
MAX_SOURCE = 1_000_000  # the longest source, in characters, that is read
MAX_NESTING = 40  # the deepest nesting of parentheses that is read
MAX_OPERATORS = 100  # the most operators (``and``, ``or``, ``not``, ``+``, ``-``) in one term
MAX_EXPANDED = 20_000  # the most nodes of a program in which functions are written out
MAX_DEFINITIONS = 100  # the most functions that a program or a file of definitions defines
MAX_LEVELS = 10  # how deep the uses of functions in functions may go
MAX_SHOWN = 160  # the most characters of a source line that a message shows
MAX_ERRORS = 50  # the most errors of a program that a message shows
MAX_ROW = 1_000  # the most characters before and after an error that a hint is made from
MAX_DIGITS = 400  # the longest number, in digits, that is read
TERM_LIMIT = 10_000.0  # the largest magnitude that one term adds to a score
MATCH_LIMIT = 32  # the largest value of ``match``
LEAST_MASS = 1e-300  # a smaller mass of a term of a ``linear`` program counts as 0
