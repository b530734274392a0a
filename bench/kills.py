"""Does a run that is killed again and again end as one that never was?

    python bench/kills.py [KILLS=1000] [SEED=0] [KEY=VALUE ...]

Trains by the defaults, once without interruption. Then again, but kills the process (SIGKILL) at a random
moment and resumes it, until it has ended; and so on, with the next seed, until KILLS processes have been
killed. Counts the runs that did not end with the same weights, bit for bit, and whatever else went wrong.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import main
from support.checkpoint import load_checkpoint


def weights(folder):
    return load_checkpoint(os.path.join(folder, "checkpoint.pt"), "cpu")[0].state_dict()


def run(arguments):
    options = dict(KILLS=1000, SEED=0)
    options.update(
        {
            key: int(value)
            for key, _, value in (a.partition("=") for a in arguments)
            if key in options
        }
    )
    others = [a for a in arguments if a.partition("=")[0] not in options]
    kills = runs = different = failed = before_checkpoint = 0
    seed, chance = options["SEED"], random.Random(options["SEED"])
    while kills < options["KILLS"]:
        with tempfile.TemporaryDirectory() as folder:

            def start(name, *more):
                command = [
                    sys.executable,
                    main.__file__,
                    f"OUT_DIR={folder}/{name}",
                    f"SEED={seed}",
                ]
                return subprocess.Popen(
                    [*command, *others, *more],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )

            began = time.perf_counter()
            assert start("straight").wait() == 0
            whole, ended = time.perf_counter() - began, False
            while not ended and kills < options["KILLS"]:
                there = os.path.exists(f"{folder}/killed/checkpoint.pt")
                before_checkpoint += not there
                process = start("killed", f"RESUME={there}")
                try:
                    _, said = process.communicate(timeout=chance.uniform(0, 1.2 * whole))
                    failed += process.returncode != 0
                    if process.returncode:
                        print(f"seed {seed}: {said}", flush=True)
                    ended = True
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    kills += 1
            if ended:
                runs += 1
                one, other = (weights(f"{folder}/{name}") for name in ("straight", "killed"))
                different += not all(torch.equal(one[name], other[name]) for name in one)
            seed += 1
            print(
                f"{kills} kills, {before_checkpoint} of them or starts before a checkpoint; {runs} runs ended, "
                f"{different} with other weights, {failed} with an error",
                flush=True,
            )


if __name__ == "__main__":
    run(sys.argv[1:])
