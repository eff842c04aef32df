"""onebit: train, verify, pack, export and run 1-bit and 1.58-bit (ternary) language models."""
