"""The one exception that means: the user can fix this, and the check of a setting that raises it."""


class UserError(ValueError):
    """A mistake in input, configuration or files. The message says what, where and what to do.

    The command line prints it without a traceback.
    """


def require(ok: bool, key: str, value: object, expected: str) -> None:
    """Raise UserError unless a setting is `ok`; `key` is what an override calls it, e.g. model.num_layers."""
    if not ok:
        raise UserError(f"{key}={value}: expected {expected}")


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM, as schedulers do. What was reached is saved."""


def first_line(error: Exception) -> str:
    """What an error says at first; its kind, where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
