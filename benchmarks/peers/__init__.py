"""The work of the package by what a user would write instead; ``python benchmarks/peers`` prints the table."""
