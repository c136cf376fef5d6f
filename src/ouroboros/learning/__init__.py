"""Policy: what feedback teaches, what is rehearsed with it, and what is held back. No tensors, no stores."""
