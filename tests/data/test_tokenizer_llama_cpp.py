"""Our ids against real llama.cpp's, for every cut that we know.

llama.cpp loads no bare vocabulary here, so a tiny model is written around each.
"""

import json
import urllib.request

import numpy as np
import pytest

from onebit.data import Tokenizer, bpe
from onebit.io.gguf_write import Declared, Writer

xllamacpp = pytest.importorskip("xllamacpp", reason="the package xllamacpp is not installed")

WIDTH = 32
TEXTS = [
    "The cat sat on the mat in 1984, didn't it?  We'LL see, I'd BET.",
    "a  b   c    d\t\te\n\n\nf\r\ng   \n  x ",
    "0 12 345 6789 1234567890 3.14159 ½ Ⅷ ٣ ½",
    "naïve café — “quotes” … 日本語 한국어 עברית 🙂👩‍👩‍👧‍👦",
    "def f(x):\n    return x**2  # $5 + <a>^~|\n\tif a != b: pass",
    "\u00a0no-break\u2003em space\u200bzero width",
    "<|endoftext|> CamelCase x86_64 " + "x" * 40 + " " * 30,
    "hello the cat [turn] or  a cat",
]


def serve(path, metadata):
    """Write a model of one tiny layer around a vocabulary, and let llama.cpp load it."""
    vocabulary = len(metadata["tokenizer.ggml.tokens"])
    head = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 256,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": WIDTH,
        "llama.attention.head_count": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": 16,
    }
    square = [f"blk.0.{n}.weight" for n in ["attn_q", "attn_k", "attn_v", "attn_output"]]
    square += [f"blk.0.{n}.weight" for n in ["ffn_gate", "ffn_up", "ffn_down"]]
    shapes = dict.fromkeys(square, (WIDTH, WIDTH)) | {
        "token_embd.weight": (vocabulary, WIDTH),
        "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ffn_norm.weight": (WIDTH,),
    }
    declared = [Declared(name, "f32", shape) for name, shape in shapes.items()]
    with Writer(path, head | metadata, declared) as file:
        for name, shape in shapes.items():
            file.write(name, np.full(shape, 0.01, np.float32))
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.warmup, params.n_gpu_layers = 64, False, 0
    return xllamacpp.Server(params)


def their_ids(server, text: str, special: bool, begin: bool) -> list[int]:
    body = {"content": text, "add_special": begin, "parse_special": special}
    request = urllib.request.Request(
        f"{server.listening_address}/tokenize",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["tokens"]


def compare(server, tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        for special in (False, True):
            theirs = their_ids(server, text, special, False)
            assert tokenizer.encode(text, special=special) == theirs, text
    begun = tokenizer.encode("The cat", bos=tokenizer.add_bos)
    assert begun == their_ids(server, "The cat", False, True)


@pytest.mark.parametrize("pre", list(bpe.EXPRESSIONS))
def test_byte_level(pre, tmp_path):
    text = " ".join(f"the cat sat, didn't it? {i**3}\n\nWE'LL  go x=={i};" for i in range(200))
    metadata = Tokenizer.train([text], 320).to_gguf() | {"tokenizer.ggml.pre": pre}
    compare(serve(tmp_path / "model.gguf", metadata), Tokenizer.load(metadata))


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(prefix, tmp_path):
    pieces = [
        *("▁the", "he", "▁t", "▁a", "at", "▁c", "▁ca", "▁cat", "or", "▁or", "ll", "hell"),
        *("hello", "▁hello", "▁▁", "▁", "a", "c", "e", "h", "l", "o", "r", "t"),
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces, "[turn]"]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [*[0.0] * 259, *(-float(i) for i in range(len(pieces))), 0.0],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces), 4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    compare(serve(tmp_path / "model.gguf", metadata), Tokenizer.load(metadata))
