"""Commands: flags, messages and exit codes."""
