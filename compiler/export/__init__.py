"""Exports: writes a lowered program as NumPy, torch, FlexAttention, Numba or LaTeX source."""
