"""Pure values: frozen, validated, without torch and without I/O. Imports nothing else of ours."""
