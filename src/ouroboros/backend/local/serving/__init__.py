"""Generation, scoring and embedding."""
