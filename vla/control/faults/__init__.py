"""Faults on purpose: what fails, how and when, for simulation only."""
