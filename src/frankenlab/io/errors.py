"""The one kind of error that is shown to a user without a traceback."""


class UserError(Exception):
    """Wrong input or a missing resource: one line that says what, where, and what is allowed."""
