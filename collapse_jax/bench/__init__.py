"""How fast chains run on this machine, beside what the machine could do: ``collapse-jax bench``."""
