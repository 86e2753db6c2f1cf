"""The language: syntax tree, parser, printer, types, features, and what every program means."""
