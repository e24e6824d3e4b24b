"""Errors caused by user input."""


class UserError(ValueError):
    """An error caused by user input; the message is one actionable line.

    Command lines print the message alone and exit with `exit_code`; anything
    else that is raised is a defect of ours and keeps its traceback.
    """

    exit_code = 1
