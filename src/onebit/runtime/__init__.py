"""Tokens in, tokens out, without torch.

`LLM` (llm.py) opens a checkpoint, has load.py build the native decoder, keeps one sequence in its
key/value cache (cache.py), chooses tokens (sampling.py, by options.py), watches for the texts that
end an answer (stopping.py) and hands the text out as it comes (stream.py).
"""
