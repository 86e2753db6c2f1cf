"""The language: syntax tree, parser, printer, checker, features, and reference semantics."""
