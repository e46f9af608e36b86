"""Measure how fast chains run on this machine, and compare with what the machine could do: ``collapse-jax bench``."""
