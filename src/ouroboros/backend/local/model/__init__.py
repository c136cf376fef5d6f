"""Loading a base model, its tokenizer, and the plan of its memory."""
