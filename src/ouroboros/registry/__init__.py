"""What is durable: adapters, versions and the journal, as laws over two stores. Never a tensor."""
