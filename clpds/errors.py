"""The one error that a user can do something about."""


class UserError(Exception):
    """Bad input: the message is one line that names the file or key and says what to do.

    The command line prints it without a traceback and exits with status 2.
    """
