"""Deployed formats of a trained detector."""
