"""Exports: a program as NumPy, torch or FlexAttention source, and as LaTeX; one module per target."""
