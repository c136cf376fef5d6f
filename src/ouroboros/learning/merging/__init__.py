"""What may be merged, and the search for its weights."""
