"""The engine's verbs, one class for each subject."""
