"""Ranges of what a caller can ask, and the one line for what is outside."""

import pytest

from onebit import LLM
from onebit.errors import OptionError
from onebit.eval import engines
from onebit.kernels import ops
from onebit.runtime import options
from onebit.runtime.options import GenerateOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", 1.01),
        ("min_p", -0.01),
        ("temperature", 10**400),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-300),
        ("seed", -1),
        ("seed", 0.5),
        ("logprobs", -1),
        ("logprobs", 101),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(name, value):
    with pytest.raises(OptionError, match=rf"^{name} is .*; accepted: .*\.$"):
        GenerateOptions(**{name: value})


@pytest.mark.parametrize("stop", [[""], ["a", 3], ("",), 3])
def test_stop_texts_must_be_texts(stop):
    with pytest.raises(OptionError, match="not empty"):
        GenerateOptions(stop=stop)


def test_one_stop_text_needs_no_list():
    assert GenerateOptions(stop="END").stop == ("END",)


def test_an_unknown_option_is_named_with_those_that_exist():
    with pytest.raises(OptionError, match=r"temprature is no option; accepted: .*temperature"):
        GenerateOptions.of({"temprature": 1})


def test_context_defaults_to_the_models_own_but_4096_at_most():
    assert options.context_size(None, 8192) == 4096
    assert options.context_size(None, 512) == 512
    assert options.context_size(8192, 8192) == 8192
    with pytest.raises(OptionError, match="context is 8193; accepted: a whole number from 2 to"):
        options.context_size(8193, 8192)


def test_threads_and_kv_bits():
    assert options.thread_count(None) == ops.default_threads()
    assert options.thread_count(3) == 3
    assert options.kv_width(None, 32) == 32
    with pytest.raises(OptionError, match="threads is 0"):
        options.thread_count(0)
    assert [options.kv_width(bits, 16) for bits in (8, 4, 3)] == [8, 4, 3]
    for bits in (5, 8.0):
        with pytest.raises(OptionError, match=f"kv_bits is {bits}; accepted: 32, 16, 8, 4, 3"):
            options.kv_width(bits, 16)


@pytest.mark.parametrize("bits", [0, 4, 12, True, "8"])
def test_bits_of_float_inputs_are_16_or_8(tiny, bits):
    for opened in (LLM, engines.open_model):
        with pytest.raises(OptionError, match=f"input_bits is {bits!r}; accepted: 16, 8"):
            opened(tiny, input_bits=bits)
    with pytest.raises(OptionError, match="input_bits is 8; engine torch multiplies floats"):
        engines.open_model(tiny, "torch", input_bits=8)
