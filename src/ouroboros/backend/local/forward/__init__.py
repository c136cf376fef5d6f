"""One forward pass over many packed sequences."""
