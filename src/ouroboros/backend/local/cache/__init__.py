"""Keys, values and hidden states that are kept."""
