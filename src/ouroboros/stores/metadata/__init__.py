"""Metadata stores: small JSON records, compare-and-set, and ordered logs."""
