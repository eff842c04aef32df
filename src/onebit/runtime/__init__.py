"""Tokens in, tokens out, without torch.

`LLM` (llm.py) opens a checkpoint, has load.py build the native decoder and computes one sequence at
a time, whose keys and values it keeps (cache.py). `Batch` (batch.py) computes many together, each a
`Request` (request.py), in sequences that lend one another what they have in common (pool.py).

Either way an `Answer` (answer.py) makes text of logits: it chooses tokens (sampling.py, as
options.py says), guesses the next ones (draft.py) and watches for the texts that end it
(stopping.py). stream.py hands the text out as it comes.
"""
