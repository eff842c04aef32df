"""ggml's blocks after training: importance from the inputs, codes that see the Gram matrix."""

import numpy as np
import pytest
import torch

from onebit import pack, quant
from onebit.errors import InputError, OptionError, ShapeError
from onebit.pack import Unpacked
from onebit.ptq import METHODS, Options
from onebit.ptq.kquants import FORMATS
from onebit.ptq.stats import Recorder
from onebit.scheme import FP

kquants = METHODS["kquants"].run


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def layer():
    size_K = (-2 * torch.rand(256, generator=torch.Generator().manual_seed(4))).exp()
    x = normal(1024, 256, seed=1) @ normal(256, 256, seed=2) * size_K
    recorder = Recorder(256, len(x), gram=True)
    recorder.add(x)
    return 0.02 * normal(16, 256), x, recorder.stats()


@pytest.mark.parametrize("name", FORMATS)
def test_what_comes_out_packs_as_it_is(layer, name):
    w, _, stats = layer
    for iterations in (0, 1):
        q = kquants(w, FP, stats, Options(format=name, iterations=iterations))
        low = None if q.minimum_NG is None else q.minimum_NG.numpy()
        data = pack.FORMATS[name].pack(Unpacked(q.codes_NK.numpy(), q.scale_NG.numpy(), low))
        read = pack.decode(name, data, tuple(w.shape))
        np.testing.assert_array_equal(read, quant.dequantize(q).numpy())


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "q8_0"])
def test_importance_lowers_what_it_weighs_and_sweeps_the_outputs_error(layer, name):
    w, x, stats = layer
    plain, weighed, swept = (
        quant.dequantize(kquants(w, FP, given, Options(format=name, iterations=n))) - w
        for given, n in ((None, 0), (stats, 0), (stats, 2))
    )
    h_K = stats.mean_square_K
    assert (weighed.square() * h_K).sum() < (plain.square() * h_K).sum()
    assert (x @ swept.T).norm() < 0.9 * (x @ weighed.T).norm()


def test_importance_is_of_the_sample_where_there_is_no_gram_matrix(layer):
    w, x, stats = layer
    recorder = Recorder(256, len(x), gram=False)
    recorder.add(x)
    q = kquants(w, FP, recorder.stats(), Options(format="q2_k"))
    of_all = kquants(w, FP, stats, Options(format="q2_k"))
    h_K = stats.mean_square_K

    def loss(q):
        return float(((quant.dequantize(q) - w).square() * h_K).sum())

    assert loss(q) == pytest.approx(loss(of_all), rel=0.03)


def test_what_cannot_be_done_is_refused(layer):
    w, _, stats = layer
    with pytest.raises(OptionError, match="format is 'q7_k'; accepted: q8_0"):
        kquants(w, FP, stats, Options(format="q7_k"))
    with pytest.raises(ShapeError, match="192 columns do not split into groups of 256"):
        kquants(w[:, :192], FP, None, Options(format="q4_k"))
    with pytest.raises(ShapeError, match=r"importance of shape \(256,\) for 128 columns"):
        kquants(w[:, :128], FP, stats, Options(format="q4_0"))
    with pytest.raises(InputError, match="not finite"):
        kquants(w / 0, FP, stats, Options(format="q4_k"))
    with pytest.raises(InputError, match="q4_k holds scales as float16"):
        kquants(w * 1e9, FP, None, Options(format="q4_k"))
