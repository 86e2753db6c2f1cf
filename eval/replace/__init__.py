"""Replacement: programs in the place of attention heads, in live transformers models."""
