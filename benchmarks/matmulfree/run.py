"""Train and measure MatMul-free models beside transformers, then write the page.

    python -m benchmarks.matmulfree.run [--tokens N] [--arms A,B] [--seeds 0,1,2] [--workers 2]
                                        [--out FOLDER] [--page FOLDER] [--page-only]

It is `make results-matmulfree`. Two processes of one thread each train one run at a time. Stop it
when you like and start it again: finished runs are kept, the two under way go on from their last
checkpoints, and the runs of an arm whose definition has changed are done anew.

With other tokens than the page's the page goes into the folder of the runs, not into docs/.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bitnet import run
from benchmarks.matmulfree import page
from benchmarks.matmulfree.arms import Setup

OUT = Path("runs/results-matmulfree")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run.command(arguments, Setup(), page.write, OUT, str(__doc__))


if __name__ == "__main__":
    sys.exit(main())
