"""Evaluation: attention capture, metrics, scoring, replacement of heads, reports."""
