"""GPTQ by GPTQModel: python peer_gptqmodel.py FLOATS CALIBRATION OUT THREADS

Runs in an environment of its own, without onebit. 3 bits with zero-points, groups of 64, no
act-order: as our row gptq-w3-in-order. It is scored after saving and loading, as its users have it.
"""

import json
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

floats, calibration, out = map(Path, sys.argv[1:4])
torch.set_num_threads(int(sys.argv[4]))
tokens = np.load(calibration)
rows = [{"input_ids": ids.tolist(), "attention_mask": [1] * len(ids)} for ids in tokens]
config = QuantizeConfig(bits=3, group_size=64, sym=False, desc_act=False)
model = GPTQModel.load(str(floats), config, device="cpu")
started = time.perf_counter()
model.quantize(rows, batch_size=1)
time_s = time.perf_counter() - started
packed = out.with_name("packed")
model.save(str(packed))
model = GPTQModel.load(str(packed), backend=BACKEND.TORCH, device="cpu").model
out.mkdir(parents=True, exist_ok=True)
for file in floats.iterdir():
    if file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
        shutil.copy(file, out)
state = {}
for name, w in AutoModelForCausalLM.from_pretrained(floats).named_parameters():
    module = model.get_submodule(name.rpartition(".")[0])
    if hasattr(module, "dequantize_weight"):
        state[name] = module.dequantize_weight().T.float().contiguous()
    else:
        state[name] = w.detach().float().contiguous()
save_file(state, out / "model.safetensors", {"format": "pt"})
found = {"version": version("gptqmodel"), "time_s": time_s}
(out / "result.json").write_text(json.dumps(found))
