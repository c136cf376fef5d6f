"""Whether a candidate may replace its parent: checks, repairs, and verdicts in words."""
