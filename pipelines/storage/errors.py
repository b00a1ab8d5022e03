"""Errors of a store that a user can fix."""

from pipelines.errors import UserError


class StoreError(UserError):
    """The store lacks a dataset, belongs to another recipe, or is being written by another process."""


class DamagedError(StoreError):
    """A file of the store differs from what was written.

    Args:
        message: The whole message.
        cause: What is wrong with the file, as a predicate: "is missing".
    """

    def __init__(self, message: str, cause: str = ""):
        super().__init__(message)
        self.cause = cause
