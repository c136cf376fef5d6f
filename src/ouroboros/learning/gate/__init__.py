"""The gate's policy: a candidate against its parent, in numbers and in words."""
