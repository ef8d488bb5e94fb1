"""The one exception that means: the user can fix this."""


class UserError(ValueError):
    """A mistake in input, configuration or files. The message says what, where and what to do.

    The command line prints it without a traceback.
    """
