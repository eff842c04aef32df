"""GPTQ by llm-compressor: python peer_llmcompressor.py FLOATS CALIBRATION OUT SETTINGS

SETTINGS is {"bits": ..., "observer": ..., "threads": ...}. Runs in an environment of its own,
without onebit. Zero-points, groups of 64, static act-order, damping 0.01, every linear but the
head, all in float32.
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
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

floats, calibration, out = map(Path, sys.argv[1:4])
settings = json.loads(sys.argv[4])
torch.set_num_threads(settings["threads"])
tokens = np.load(calibration)
model = AutoModelForCausalLM.from_pretrained(floats, dtype=torch.float32)
rows = [{"input_ids": ids.tolist(), "attention_mask": [1] * len(ids)} for ids in tokens]
recipe = GPTQModifier(
    config_groups={
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": settings["bits"],
                "type": "int",
                "symmetric": False,
                "strategy": "group",
                "group_size": 64,
                "actorder": "static",
                "observer": settings["observer"] or "minmax",
            },
        }
    },
    ignore=["lm_head"],
    dampening_frac=0.01,
)
started, busy = time.perf_counter(), time.process_time()
oneshot(
    model=model,
    dataset=Dataset.from_list(rows),
    recipe=recipe,
    max_seq_length=tokens.shape[1],
    num_calibration_samples=len(tokens),
)
time_s, processor_s = time.perf_counter() - started, time.process_time() - busy
peak_memory_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out.mkdir(parents=True, exist_ok=True)
for file in floats.iterdir():
    if file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
        shutil.copy(file, out)
there = {name for name, _ in AutoModelForCausalLM.from_pretrained(floats).named_parameters()}
state = {
    name: w.detach().float().contiguous() for name, w in model.named_parameters() if name in there
}
save_file(state, out / "model.safetensors", {"format": "pt"})
found = {
    "version": version("llmcompressor"),
    "time_s": time_s,
    "processor_s": processor_s,
    "peak_memory_bytes": peak_memory_bytes,
}
(out / "result.json").write_text(json.dumps(found))
