"""Answering, scoring and embedding."""
