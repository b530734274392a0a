"""Mistakes of the user."""


class UserError(Exception):
    """A mistake that the user can mend; the message says what was wrong and what would be right."""
