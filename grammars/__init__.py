"""Data of the language: its grammar, the standard lexicon and the program library."""
