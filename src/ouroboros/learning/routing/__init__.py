"""Which adapter knows a prompt: centroids of tasks, and searching them."""
