"""Hydra configs: one root file a verb, one group a choice."""
