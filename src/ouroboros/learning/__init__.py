"""Policy: what feedback teaches, what an update keeps away from, what is held back. No tensors."""
