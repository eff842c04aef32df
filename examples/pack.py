"""Codes to bytes and back, in every format that holds ternary weights.

python examples/pack.py
"""

import numpy as np

from onebit import pack

rng = np.random.default_rng(0)
codes = rng.integers(-1, 2, (1024, 2560), dtype=np.int8)
weights = pack.Unpacked(codes, np.full((1024, 1), 0.5, np.float32))

for name in ("t1_6", "tq1_0", "t2", "tq2_0", "i2_s", "hf_2bit"):
    format = pack.find(name)
    data = format.pack(weights)
    scale = None if format.scale_inside else weights.scale_NG
    back = format.unpack(data, codes.shape, scale)
    assert np.array_equal(back.values(), weights.values())
    print(f"{name:8s} {data.nbytes:9,} bytes, {8 * data.nbytes / codes.size:.4f} bits a weight")
