"""What an adapter knows: the rows to replay, the probes to ask, the anchors to hold."""
