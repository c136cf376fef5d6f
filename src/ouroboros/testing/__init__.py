"""For your own tests: laws that every store must keep, tiny models, a backend without torch."""
