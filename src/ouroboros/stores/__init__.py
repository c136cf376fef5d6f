"""Storage: metadata stores, blob stores and vector stores, with one file per implementation."""
