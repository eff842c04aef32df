"""Run a real model natively; torch is never imported.

python examples/run.py "Tell me the capital of France."
"""

import sys

import onebit

question = " ".join(sys.argv[1:]) or "Tell me the capital of France."
with onebit.LLM("smollm2") as llm:  # a catalog name, a GGUF file or a model folder
    print(f"> {question}")
    stream = llm.stream_chat(question, max_tokens=60)
    for piece in stream:
        print(piece, end="", flush=True)
    rate = stream.generation.timing.decode_rate_tokens_per_s
    print(
        f"\n\n{rate:.0f} tokens/s on {llm.threads} threads; torch loaded: {'torch' in sys.modules}"
    )
