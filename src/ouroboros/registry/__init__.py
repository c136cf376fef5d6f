"""What is durable: adapters, versions and the journal, as laws over two simple stores. Never a tensor."""
