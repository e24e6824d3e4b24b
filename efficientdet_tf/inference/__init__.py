"""What runs after training: the detection graph and its runtimes."""
