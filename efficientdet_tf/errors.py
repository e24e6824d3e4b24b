"""Errors caused by user input."""


class UserError(ValueError):
    """An error caused by user input; the message is one actionable line.

    Commands print only the message and exit with `exit_code`; any other exception is a
    defect and keeps its traceback.
    """

    exit_code = 1
