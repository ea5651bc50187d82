"""Errors whose message is for the person who started the run."""


class UserError(Exception):
    """Bad input: one line that says what was wrong, where, and what would be right. Exit status 2."""
