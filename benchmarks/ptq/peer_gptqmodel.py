"""GPTQ by GPTQModel: python peer_gptqmodel.py FLOATS CALIBRATION OUT SETTINGS

SETTINGS is {"bits": ..., "threads": ...}. Runs in an environment of its own, without onebit.
Zero-points, groups of 64; order ("act_group_aware") and damping (0.05) are its own. Weights stay
float32: its usual bfloat16 would round them first. It is scored after saving and loading.
"""

import json
import resource
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
settings = json.loads(sys.argv[4])
torch.set_num_threads(settings["threads"])
tokens = np.load(calibration)
rows = [{"input_ids": ids.tolist(), "attention_mask": [1] * len(ids)} for ids in tokens]
config = QuantizeConfig(bits=settings["bits"], group_size=64, sym=False, desc_act=False)
model = GPTQModel.load(str(floats), config, device="cpu", dtype=torch.float32)
started, busy = time.perf_counter(), time.process_time()
model.quantize(rows, batch_size=1)
time_s, processor_s = time.perf_counter() - started, time.process_time() - busy
peak_memory_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
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
found = {
    "version": version("gptqmodel"),
    "time_s": time_s,
    "processor_s": processor_s,
    "peak_memory_bytes": peak_memory_bytes,
}
(out / "result.json").write_text(json.dumps(found))
