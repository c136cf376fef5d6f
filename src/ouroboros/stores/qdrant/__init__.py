"""What is common to all that is kept in Qdrant: the server, its collections, and points as places."""
