"""From feedback to the rows of one update."""
