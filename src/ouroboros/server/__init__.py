"""The HTTP server: OpenAI's API, feedback, and adapters, on an engine. Nothing in it imports torch."""
