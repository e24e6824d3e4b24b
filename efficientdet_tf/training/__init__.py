"""The trainer: optimizers, schedules, callbacks, checkpoints and strategy."""
