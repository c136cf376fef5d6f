"""The endpoints that OpenAI's clients call, with their field names and their error format."""
