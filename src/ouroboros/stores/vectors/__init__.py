"""Vectors in a store that searches them by itself."""
