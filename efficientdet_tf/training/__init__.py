"""Trainer: optimizers, schedules, callbacks, checkpoints and strategy."""
