"""Backends own tensors: they train, score, generate and merge. They never see a store."""
