"""Reading files of training examples and feedback."""
