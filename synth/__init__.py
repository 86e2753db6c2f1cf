"""Synthesis: proposers, weight fitting, search, Pareto fronts, runs."""
