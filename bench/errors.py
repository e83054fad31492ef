"""The error that is a message to a person."""


class UserError(ValueError):
    """Something the user can put right: the message says what is wrong, where, and what to do.

    The command line shows the message alone, without a traceback, and exits with status 2.
    """
