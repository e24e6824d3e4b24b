"""The commands: flags, messages and exit codes."""
