"""What a user can put right."""


class UserError(ValueError):
    """Something the user can mend; the message is one line that says how.

    Command lines print the message alone and exit with `exit_code`; anything
    else that is raised is a defect of ours and keeps its traceback.
    """

    exit_code = 1
