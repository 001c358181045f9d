"""The one exception for what a user can mend."""


class InvalidInput(ValueError):
    """A value from outside (flag, file, config) is not usable.

    The message is one line that names the thing, the value and what is allowed. The command line
    prints it without a traceback and exits with code 2.
    """
