"""Blob stores: immutable bytes under content-addressed keys."""
