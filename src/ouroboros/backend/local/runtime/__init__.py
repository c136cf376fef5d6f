"""The worker thread, its schedule, threads and memory."""
