"""Does a run that is killed again and again end as one that never was?

    python bench/kills.py [KILLS=1000] [SEEDS=4] [KEY=VALUE ...]

Trains by the defaults, but to the end of the episodes, once without interruption with each seed.
Then again, but kills the process (SIGKILL) at a random moment and resumes it, until it has ended;
and so on, with one seed after the other, until KILLS processes have been killed. Counts the runs
that did not end with the same weights, bit for bit, and whatever else went wrong. The processes are
forked, so that none has to import torch again.
"""

import os
import random
import signal
import sys
import tempfile
import time

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import main
from support.files import load_checkpoint


def weights(folder):
    return load_checkpoint(os.path.join(folder, "checkpoint.pt"), "cpu")[0].state_dict()


def start(*arguments):
    """Forks a process that runs this command, silently but for its errors; returns its number."""
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        os._exit(main.main([*arguments]))
    finally:
        os._exit(3)


def ended(child, seconds):
    """The exit status of a process, or None if it was killed after so many seconds."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def run(arguments):
    options = dict(KILLS=1000, SEEDS=4)
    given = dict(argument.split("=", 1) for argument in arguments)
    options |= {name: int(given.pop(name)) for name in [*given] if name in options}
    others = ["UNTIL_PROVED=False", "EVAL_MAZES=1000"]
    others += [f"{name}={value}" for name, value in given.items()]
    kills = runs = different = failed = fresh = 0
    chance, straight = random.Random(0), {}
    torch.set_num_threads(1)
    while kills < options["KILLS"]:
        with tempfile.TemporaryDirectory() as folder:
            seed = runs % options["SEEDS"]
            if seed not in straight:
                began, path = time.perf_counter(), f"{folder}/straight"
                assert ended(start(f"SEED={seed}", f"OUT_DIR={path}", *others), 1e6) == 0
                straight[seed], whole = weights(path), time.perf_counter() - began
            status, path = None, f"{folder}/killed"
            while status is None and kills < options["KILLS"]:
                resume = os.path.exists(f"{path}/checkpoint.pt")
                fresh += not resume
                command = [f"SEED={seed}", f"OUT_DIR={path}", f"RESUME={resume}", *others]
                status = ended(start(*command), chance.uniform(0, whole / 3))
                kills += status is None
            if status is not None:
                runs, failed, last = runs + 1, failed + (status != 0), weights(path)
                same = all(torch.equal(last[name], w) for name, w in straight[seed].items())
                different += not same
        found = kills, fresh, runs, different, failed
        print(*found, file=sys.stderr, flush=True)
    print("| kills | without a checkpoint yet | runs ended | other weights | an error |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    print(f"| {' | '.join(map(str, found))} |")


if __name__ == "__main__":
    run(sys.argv[1:])
