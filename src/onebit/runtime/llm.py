"""LLM: open a model file and use it. No torch.

    with LLM("smollm2") as llm:
        print(llm.chat("What is the capital of France?").text)
        for piece in llm.stream("Once upon a time", max_tokens=50, temperature=0.8, seed=1):
            print(piece, end="", flush=True)

Shape letters: T tokens, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onebit.errors import InputError, MissingError, OptionError
from onebit.io import open_checkpoint
from onebit.kernels import ops
from onebit.runtime.answer import Answer
from onebit.runtime.cache import CachedSequence
from onebit.runtime.generation import Generation
from onebit.runtime.load import load
from onebit.runtime.options import (
    GenerateOptions,
    context_size,
    input_width,
    kv_width,
    thread_count,
)
from onebit.runtime.sampling import check_finite, chosen_logprobs
from onebit.runtime.state import StateSequence
from onebit.runtime.stream import Stream

if TYPE_CHECKING:
    from onebit.data import Tokenizer
    from onebit.kernels.cpu import Decoder

Prompt: TypeAlias = str | Sequence[int]
Messages: TypeAlias = str | Sequence[Mapping[str, str]]

SCORED_AT_A_TIME = 24
"""Positions whose logits are held at once while scoring, 24 x V floats. Longer parts are no faster
in the layers, and take longer here: their logits no longer fit the cache."""


class LLM:
    """A language model ready to run on this CPU.

    Options of `generate`, `stream`, `chat` and `stream_chat` are the fields of `GenerateOptions`.
    Streams may be left unfinished or take turns, those of several threads too.
    """

    def __init__(
        self,
        model: str | Path,
        threads: int | None = None,
        context: int | None = None,
        kv_bits: int | None = None,
        body: str = "auto",
        input_bits: int = 16,
    ) -> None:
        """Open a model.

        Args:
            model: a folder with config.json and safetensors, a .gguf file, or a catalog name.
            threads: CPU threads; None takes all that this process may run on.
            context: tokens that a prompt and its answer may have; None takes the model's own
                maximum, but 4096 at most, as each token takes memory. A model with a recurrent
                state, of which none does, takes any number; None is then no limit.
            kv_bits: bits of a cached key or value: 32, 16, 8, 4 or 3; None takes the
                scheme's. A recurrent model has none.
            body: ternary weights in memory, "t2" (2 bits) or "t1_6" (1.6 bits); "auto" measures for
                some milliseconds which is faster here. What comes out is the same.
            input_bits: of each layer's inputs where the scheme leaves these floats and the weights
                are codes. 16: what comes out is what floats give, but for rounding in float. 8:
                in blocks of 32, as others run such files; prompts are read 1.7 times as fast.

        Raises:
            OnebitError: the file is missing, damaged or of a kind that does not run, or an option
                is out of range; in one line.
        """
        self.threads = thread_count(threads)
        self.prepare()
        checkpoint = open_checkpoint(model)
        self.path = checkpoint.path
        self.input_bits = input_width(input_bits)
        loaded = load(checkpoint, body, self.input_bits)
        self.architecture = loaded.architecture
        self.scheme = loaded.scheme
        self.body = loaded.body
        """Layout of ternary matrices in memory, "t2" or "t1_6", should there be any."""
        self.size_bytes = loaded.size_bytes
        """Of all matrices in memory."""
        self.token_bytes = loaded.token_bytes
        """Of these, read to compute one token."""
        recurrent = self.architecture.recurrent
        self.context = context_size(context, self.architecture.longest, recurrent)
        """Most tokens of a prompt and its answer; `architecture.NO_LIMIT` for no limit."""
        self.kv_bits = kv_width(kv_bits, self.scheme.kv_bits, recurrent)
        self._tokenizer_source = checkpoint.tokenizer
        self._tokenizer: Tokenizer | None = None
        self._decoder: Decoder | None = loaded.decoder
        self._sequence: CachedSequence | None = self.new_sequence()
        self._turn = Lock()
        """Held while the sequence is used."""

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free weights and cache. Further use is an error."""
        self._sequence = self._decoder = None

    @property
    def tokenizer(self) -> "Tokenizer":
        """The model's, built when it is first asked for.

        Raises:
            MissingError: the model came without one.
            FormatError, UnsupportedError: it is damaged, or of a kind that we do not build.
        """
        if self._tokenizer is None:
            if self._tokenizer_source is None:
                raise MissingError(
                    f"{self.path} has no tokenizer; give token ids in place of text."
                )
            from onebit.data import Tokenizer

            self._tokenizer = Tokenizer.load(self._tokenizer_source.source)
        return self._tokenizer

    def generate(self, prompt: Prompt, **options: Any) -> Generation:
        """Continue a text, or a list of token ids, and return the whole continuation.

        Raises:
            OptionError: an option is unknown or out of range.
            InputError: the prompt is empty, too long, or has ids outside the vocabulary.
            FormatError: a logit is NaN or infinite.
        """
        return _finish(self.stream(prompt, **options))

    def stream(self, prompt: Prompt, **options: Any) -> Stream:
        """Like `generate`, as an iterator over pieces of text; its `generation` is the whole."""
        return self._stream(self.encode(prompt), GenerateOptions.of(options))

    def chat(self, messages: Messages, **options: Any) -> Generation:
        """Answer a conversation.

        Args:
            messages: {"role": ..., "content": ...} for each turn, oldest first; or a text, which
                is a single turn of the user.
            options: as for `generate`.

        Raises:
            MissingError: the model has no chat template.
            OptionError, InputError: as `generate`.
        """
        return _finish(self.stream_chat(messages, **options))

    def stream_chat(self, messages: Messages, **options: Any) -> Stream:
        """Like `chat`, as an iterator over pieces of text; its `generation` is the whole."""
        return self._stream(self.encode_chat(messages), GenerateOptions.of(options))

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each of T tokens, (T, V) float32, computed from scratch.

        Raises:
            InputError: there are no tokens or more than the context holds, or an id is outside the
                vocabulary.
            FormatError: a logit is NaN or infinite.
        """
        ids = self.encode(tokens)
        with self._turn:
            return np.concatenate(list(self._scored(ids, len(ids))))

    def logprobs(self, tokens: Sequence[int]) -> NDArray[np.float64]:
        """Return the log-probability of each of T tokens but the first, given those before it.

        (T - 1,) float64. Memory does not grow with T x V. Raises as `logits`.
        """
        ids = self.encode(tokens)
        out = np.empty(max(len(ids) - 1, 0))
        start = 0
        with self._turn:
            for logits_TV in self._scored(ids, SCORED_AT_A_TIME):
                targets = ids[start + 1 : start + 1 + len(logits_TV)]
                scored = chosen_logprobs(logits_TV[: len(targets)], targets)
                out[start : start + len(targets)] = scored
                start += len(logits_TV)
        return out

    def logprobs_after(
        self, tokens: Sequence[int], continuation: Sequence[int]
    ) -> NDArray[np.float64]:
        """Return the log-probability of each token of a continuation, given all before it.

        What the cache holds of `tokens` from the last call is not computed again, so several
        continuations of one text cost little more than the text. (T,) float64, T of the
        continuation.

        Raises:
            InputError: as `logits`, for both together; or one of them is empty.
        """
        first, then = self._checked(tokens), self._checked(continuation)
        self._check_count(len(first) + len(then))
        if not first or not then:
            raise InputError("logprobs_after: a text or its continuation is empty; give both.")
        with self._turn:
            self.prepare()
            logits_TV, _ = self._open_sequence().after(first, then[:-1])
        return chosen_logprobs(logits_TV, then)

    def encode(self, prompt: Prompt) -> list[int]:
        """Return a prompt's tokens, with the begin token where the model's tokenizer asks for it.

        Token ids are returned as they are.

        Raises:
            InputError: it is no prompt, or an id is outside the vocabulary, whoever gave it.
        """
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt, bos=self.tokenizer.add_bos)
        return self._checked(prompt)

    def encode_chat(self, messages: Messages) -> list[int]:
        """Return a conversation's tokens, up to where the answer begins; raises as `chat`."""
        return self._checked(self.tokenizer.encode_chat(_turns(messages)))

    def logits_after(self, tokens: Sequence[int]) -> tuple[NDArray[np.float32], int]:
        """Return the logits (V,) after a sequence, and how many of its tokens were cached.

        Raises:
            InputError: as `logits`.
        """
        with self._turn:
            sequence, tokens = self._open_sequence(), list(tokens)
            self._check_count(len(tokens))
            held = sequence.common_prefix(tokens)  # which were checked when they came
            self._checked(tokens[held:])
            self.prepare()
            logits_RV, reused = sequence.after(tokens)
        return logits_RV[0], reused

    def forget(self) -> None:
        """Empty the cache: the next prompt is computed whole."""
        with self._turn:
            self._open_sequence().forget()

    @property
    def decoder(self) -> "Decoder":
        """The native forward pass.

        Raises:
            InputError: the model is closed.
        """
        if self._decoder is None:
            raise self._closed()
        return self._decoder

    def new_sequence(self) -> CachedSequence:
        """Return a sequence of up to `context` tokens, empty.

        Raises:
            OptionError: there is no memory for it.
        """
        a = self.architecture
        try:
            if a.recurrent:
                return StateSequence(self.decoder)
            return CachedSequence(self.decoder, self.context, self.kv_bits)
        except MemoryError:
            if a.recurrent:
                raise OptionError("no memory is left for a state of the model.") from None
            values = 2 * a.num_hidden_layers * a.num_key_value_heads * a.head_dim  # keys and values
            megabytes = values * self.context * self.kv_bits / 8 / 1e6
            raise OptionError(
                f"context is {self.context} tokens, whose keys and values of {self.kv_bits} bits "
                f"take {megabytes:,.0f} MB, more than this machine gives. Choose a smaller context."
            ) from None

    def new_answer(self, prompt: list[int], options: GenerateOptions) -> Answer:
        """Return the answer to a prompt's tokens, nothing of it computed yet.

        Raises:
            InputError: the prompt is empty or leaves no room for an answer.
        """
        if not prompt:
            raise InputError("The prompt has no tokens; give at least one.")
        if len(prompt) >= self.context:
            raise InputError(
                f"The prompt has {len(prompt)} tokens and the context holds {self.context}, answer "
                "included. Shorten the prompt or open the model with a larger context."
            )
        a, tokenizer = self.architecture, self.tokenizer if self._tokenizer_source else None
        end_ids = frozenset(a.eos_token_id) | frozenset(tokenizer.eos_ids if tokenizer else ())
        decoder = tokenizer.decoder() if tokenizer else _NoText()
        return Answer(prompt, options, decoder, end_ids, self.context)

    def prepare(self) -> None:
        """Make the native code use this model's threads; to be called before it computes."""
        ops.active_isa()  # says so in one line if ONEBIT_ISA cannot be met
        ops.set_threads(self.threads)  # the number is the process's: another LLM may have set it

    def _stream(self, prompt: list[int], options: GenerateOptions) -> Stream:
        self._open_sequence()
        return Stream(self.new_answer(prompt, options), self._compute)

    def _compute(self, answer: Answer, draft: list[int]) -> tuple[NDArray[np.float32], int]:
        with self._turn:
            self.prepare()
            return self._open_sequence().after(answer.tokens, draft, answer)

    def _scored(self, ids: list[int], chunk: int) -> Iterator[NDArray[np.float32]]:
        self._check_count(len(ids))
        self.prepare()
        for logits_TV in self._open_sequence().logits(ids, chunk):
            check_finite(logits_TV)
            yield logits_TV

    def _check_count(self, count: int) -> None:
        if not 0 < count <= self.context:
            raise InputError(
                f"{count} tokens to compute; accepted: 1 to {self.context}, the model's context."
            )

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        if isinstance(tokens, bytes) or not isinstance(tokens, Sequence | np.ndarray):
            raise InputError(f"The prompt is {tokens!r:.80}; accepted: a text, or token ids.")
        V = self.architecture.vocab_size
        for token in tokens:
            if not isinstance(token, int | np.integer) or not 0 <= token < V:
                raise InputError(f"Token {token!r} is not in the vocabulary; ids: 0 to {V - 1}.")
        return [int(token) for token in tokens]

    def _open_sequence(self) -> CachedSequence:
        if self._sequence is None:
            raise self._closed()
        return self._sequence

    def _closed(self) -> InputError:
        return InputError(f"This LLM ({self.path}) is closed; open it again.")


class _NoText:
    """Stands in for the decoder of a model that came without a tokenizer: ids only."""

    def feed(self, token: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


def _finish(stream: Stream) -> Generation:
    for _ in stream:
        pass
    return stream.generation


def _turns(messages: Messages) -> list[dict[str, str]]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    try:
        turns = list(messages)
    except TypeError:
        raise InputError(f"chat: {messages!r:.80} is no list of messages.") from None
    for message in turns:
        texts = isinstance(message, Mapping) and {"role", "content"} <= set(message)
        if not texts or not all(isinstance(message[key], str) for key in ("role", "content")):
            raise InputError(
                f'chat: {message!r:.80} is no message; accepted: {{"role": ..., "content": ...}}.'
            )
    if not turns:
        raise InputError("chat: there are no messages; give at least one.")
    return [dict(message) for message in turns]
