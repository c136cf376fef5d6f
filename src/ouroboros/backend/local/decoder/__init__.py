"""A Llama-like decoder with its own backward pass."""
