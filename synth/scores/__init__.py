"""Shared scores: a vocabulary of graded functions of a position, found once for all heads of a model."""
