"""Errors that a user's mistake raises, each told in one line; any other exception is a bug and keeps its traceback."""


class UsageError(ValueError):
    """An argument, a config or a command line that cannot be obeyed."""


class StoreError(UsageError):
    """A store of results that cannot be written, read or resumed."""


class MissingExtraError(UsageError, ImportError):
    """A package that is an optional extra of this one and is not installed."""
