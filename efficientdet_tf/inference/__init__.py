"""Inference: the detection graph and its runtimes."""
