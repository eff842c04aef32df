"""Train and measure every arm, then write the page: `make results-bitnet`.

    python -m benchmarks.bitnet.run [--tokens N] [--arms A,B] [--seeds 0,1,2] [--workers 2]
                                    [--out FOLDER] [--page FOLDER] [--page-only]

Two processes of one thread each train one run at a time. Stop it when you like and start it again:
finished runs are kept, the two under way go on from their last checkpoints, and the runs of an arm
whose definition has changed are done anew.

With other tokens than the page's the page goes into the folder of the runs, not into docs/.
"""

import argparse
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from benchmarks.bitnet import job, page, plan, store
from benchmarks.bitnet.arms import Run, Setup
from benchmarks.bitnet.progress import Line

from onebit.errors import OnebitError, OptionError

OUT = Path("runs/results-bitnet")
PAGE = Path("docs/results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return command(arguments, Setup(), page.write, OUT, str(__doc__))


def command(
    arguments: Sequence[str] | None,
    whole: Setup,
    write: Callable[[Path, Setup, Path], str],
    out: Path,
    words: str,
) -> int:
    """Run the command of a comparison; return its exit code.

    Args:
        arguments: of the command line; None for this process's.
        whole: what the page is made with.
        write: writes the page of the runs in a folder, of a setup, into a folder; returns a line.
        out: folder of the runs, where the command line names none.
        words: what the command does, its first line a summary.
    """
    parser = argparse.ArgumentParser(prog=out.name, description=words)
    parser.add_argument("--tokens", type=int, default=whole.tokens, help="of each run")
    parser.add_argument("--arms", default=",".join(whole.arms), help="names, with commas")
    parser.add_argument("--seeds", default=",".join(map(str, whole.seeds)))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--out", type=Path, default=out, help="folder of the runs")
    parser.add_argument("--page", type=Path, help="folder of the page")
    parser.add_argument("--page-only", action="store_true", help="of what is finished; train none")
    given = parser.parse_args(arguments)
    try:
        setup = replace(
            whole,
            tokens=given.tokens,
            arms=tuple(given.arms.split(",")),
            seeds=tuple(int(seed) for seed in given.seeds.split(",")),
        )
        if not given.page_only:
            everything(given.out, setup, given.workers)
        folder = given.page or (PAGE if setup == whole else given.out)
        written = write(given.out, setup, folder)
    except (OnebitError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    print(written)
    return 0


def everything(out: Path, setup: Setup, workers: int, stream: TextIO = sys.stderr) -> None:
    """Do all runs and their measurements that are not done yet.

    Args:
        out: folder of the runs.
        setup: what is wanted.
        workers: processes; 0 does everything in this one.
        stream: where progress goes.

    Raises:
        OptionError: an arm is unknown, another process works in the folder, or a job failed.
    """
    unknown = [name for name in setup.arms if name not in setup.known]
    if unknown:
        raise OptionError(f"{unknown[0]!r} is not an arm. Known: {', '.join(setup.known)}.")
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OptionError(f"{out}: another process works here. Wait for it.") from error
        store.text(out, setup)
        pool = _Pool(out, setup, Line(stream))
        if workers:
            pool.run(workers)
        else:
            pool.work(lambda run, measures: job.do(out, setup, run, measures))


class _Pool:
    """Hands jobs to the workers, in order, as results make them known."""

    def __init__(self, out: Path, setup: Setup, line: Line) -> None:
        self._out, self._setup, self._line = out, setup, line
        self._scores = store.scores(out, setup)
        self._busy: dict[str, Run] = {}
        self._measured: set[str] = set()
        self._failed: dict[str, str] = {}
        self._changed = threading.Condition()
        self._stopped = False

    def run(self, workers: int) -> None:
        """Do everything in this many processes."""
        processes = [_start() for _ in range(workers)]
        threads = [
            threading.Thread(target=self._drive, args=(process,), daemon=True)
            for process in processes
        ]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                self._show()
                time.sleep(2.0)
        finally:
            self._stopped = True
            for process in processes:
                process.terminate()
                process.wait()
        self._line.close()
        self._judge()

    def work(self, do: Callable[[Run, bool], None]) -> None:
        """Do one job after another until none is left or one failed."""
        while (found := self._next()) is not None:
            run, measures = found
            try:
                do(run, measures)
                self._done(run, measures, None)
            except OnebitError as error:
                self._done(run, measures, str(error))
        self._judge()

    def _drive(self, process: "subprocess.Popen[str]") -> None:
        """Give a worker process its jobs."""
        while (found := self._next()) is not None:
            run, measures = found
            error = _ask(process, job.to_line(self._out, self._setup, run, measures))
            self._done(run, measures, error)
            if process.poll() is not None:
                return

    def _next(self) -> tuple[Run, bool] | None:
        """Return the next job, after waiting for one if results are missing; None at the end."""
        with self._changed:
            while not self._stopped:
                for run, measures in self._jobs():
                    if run.name not in self._busy and run.name not in self._failed:
                        self._busy[run.name] = run
                        return run, measures
                if not self._busy:
                    return None
                self._changed.wait(1.0)
            return None

    def _jobs(self) -> list[tuple[Run, bool]]:
        """Return what is known to be wanted and not done, in order."""
        tuning = plan.tuning_runs(self._setup, self._scores)
        jobs = [(run, False) for run in tuning if run.name not in self._scores]
        for run in plan.final_runs(self._setup, self._scores):
            if run.name not in self._measured:
                jobs.append((run, True))
        return jobs

    def _done(self, run: Run, measures: bool, error: str | None) -> None:
        with self._changed:
            del self._busy[run.name]
            if error is None:
                self._scores[run.name] = store.score(self._out, run)
                if measures:
                    self._measured.add(run.name)
            elif not self._stopped:
                self._failed[run.name] = error
            self._changed.notify_all()

    def _judge(self) -> None:
        """Raise if a run failed, after the others have been done."""
        if self._failed:
            name, error = next(iter(self._failed.items()))
            raise OptionError(f"{len(self._failed)} failed; {name}: {error}")

    def _show(self) -> None:
        """Say how far everything is."""
        with self._changed:
            done = len(self._scores)
            busy = [run for run in self._busy.values() if run.name not in self._scores]
            total = plan.count(self._setup, self._scores)
        shares = {run.name: store.share_done(self._out, self._setup, run) for run in busy}
        measuring = len(self._busy) - len(busy)
        self._line.show(done, total, shares, measuring)


def _start() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bitnet.job"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def _ask(process: "subprocess.Popen[str]", line: str) -> str | None:
    """Give a worker a job and wait; return what went wrong."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except OSError:
        answer = ""
    if not answer:
        process.wait()
        return "the process that trained it has ended. Run the same command to go on."
    return job.answer(answer)


if __name__ == "__main__":
    sys.exit(main())
