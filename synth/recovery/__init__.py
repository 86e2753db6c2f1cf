"""Proposer for heads that are programs: finds the rules again that made the matrices."""
