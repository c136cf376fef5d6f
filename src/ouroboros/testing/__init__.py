"""For your own tests: conformance suites for stores, tiny models, and a backend without torch."""
