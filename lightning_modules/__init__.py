"""Optimisation only: loss, optimiser, schedule."""
