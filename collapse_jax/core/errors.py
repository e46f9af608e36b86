"""Errors that a user's mistake raises, each told in one line."""


class StoreError(ValueError):
    """A store that cannot be written, read or gone on with, told in one line."""
