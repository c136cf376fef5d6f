"""For your own tests: laws that every store must keep, tiny models, and a backend that needs no torch."""
