"""How good and how fast a model is.

    from onebit import LLM
    from onebit.eval import perplexity, texts

    print(perplexity(LLM("smollm2"), texts.read("wiki").text))

The same measure takes a torch model from `models.load`; torch is imported only then.
"""

from onebit.eval.perplexity import Perplexity, perplexity

__all__ = ["Perplexity", "perplexity"]
