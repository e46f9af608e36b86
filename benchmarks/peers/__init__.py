"""The same work as the package's, by what a user would write instead. ``python benchmarks/peers`` prints the table."""
