"""Checks of `python -m efficientdet_tf data check`, beyond those of loading a data set."""
