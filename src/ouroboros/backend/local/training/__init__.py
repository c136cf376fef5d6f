"""Training: the loop, its losses, and the update that judgements take."""
