"""Vector stores, which search vectors on the server."""
