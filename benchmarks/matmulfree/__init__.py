"""MatMul-free language models beside transformers: `python -m benchmarks.matmulfree.run`."""
