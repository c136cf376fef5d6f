"""Low-rank tensors: the bank, injection, PEFT files, size arithmetic, merging."""
