"""Our GPTQ as the peers' scripts have it: python -m benchmarks.ptq.peer_onebit FLOATS CALIBRATION
OUT SETTINGS, the last {"bits": ..., "threads": ...}.

Zero-point, groups of 64, and else what is usual. The seconds are of everything, from opening the
float model to the file that was written; the peers' are of their quantizer alone.
"""

import json
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks.ptq.job import FILE

from onebit import ptq

floats, calibration, out = map(Path, sys.argv[1:4])
settings = json.loads(sys.argv[4])
torch.set_num_threads(settings["threads"])
shutil.rmtree(out, ignore_errors=True)
out.mkdir(parents=True)
started, busy = time.perf_counter(), time.process_time()
ptq.quantize(
    floats,
    out / FILE,
    method="gptq",
    scheme=f"w{settings['bits']}a16-g64",
    calibration=ptq.Calibration("tokens", np.load(calibration), "the peers' tokens"),
    kept="force",
)
found = {
    "time_s": time.perf_counter() - started,
    "processor_s": time.process_time() - busy,
    "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
}
(out / "result.json").write_text(json.dumps(found))
