"""What matters? One thing at a time is turned away from the default run.

    python bench/ablations.py [SEEDS=3] [KEY=VALUE ...]      KEY=VALUE: constants of main.py for all runs, as NUM_EPISODES=25600

Each row: SEEDS runs of `main.train` on the same budget of episodes, that of the default in the first table and 25,600 in the second;
median (worst) success on 2,000 held-out mazes at the end; medians of q_error, of the gap (success in training mazes less
that in held-out ones), of the episodes and seconds after which held-out success was, for the first time, 99% (- where it
never was), and of the seconds in all. The second table asks the CNN, attention and the MLP, on mazes small enough to tell
the turns apart in this time (GRID=8).
"""
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time

import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import main
import model

TURNS = ["", "CURRICULUM=off", "CURRICULUM=linear", "LAMBDA=0", "LAMBDA=0.5", "LAMBDA=1", "REPLAY=uniform", "REPLAY=prioritized",
         "SHAPING=manhattan", "SHAPING=oracle", "NOVELTY=0.01", "TARGET_SYNCS=1", "TARGET_SYNCS=1 DOUBLE=False",
         "UPDATES=100 TARGET_SYNCS=10", "UPDATES=100 TARGET_SYNCS=100", "BSZ=256", "BSZ=4096", "GRAD_CLIP=1e9", "HUBER=1",
         "GAMMA=0.9", "GAMMA=0.99", "EPSILON_SHAPE=1", "LR=0.001", "MAZE_CACHE_SIZE=64"]
SMALL = ("GRID=8 MAX_START_DISTANCE=30 MAX_EP_LENGTH=40 DIFFICULTY_MIN=1 CURRICULUM_SUCCESS=0.7 LR=0.003 HUBER=0.1 GAMMA=0.9 UPDATES=20 "
         "TARGET_SYNCS=4 NUM_EPISODES=25600")
SMALL_TURNS = ["MODEL=cnn", "MODEL=pooled", "MODEL=cnn LAMBDA=0", "MODEL=cnn LAMBDA=1", "MODEL=cnn CURRICULUM=off", "MODEL=cnn CURRICULUM=linear",
               "MODEL=cnn REPLAY=uniform", "MODEL=cnn REPLAY=prioritized", "MODEL=cnn SHAPING=manhattan", "MODEL=cnn SHAPING=oracle",
               "MODEL=cnn NOVELTY=0.01", "MODEL=cnn DOUBLE=False", "MODEL=cnn TARGET_SYNCS=1", "MODEL=cnn TARGET_SYNCS=20", "MODEL=cnn MAZE_CACHE_SIZE=64",
               "MODEL=attention HUBER=1", "MODEL=mlp LR=0.0003 HUBER=1", "MODEL=mlp LR=0.0003 HUBER=1 MAZE_CACHE_SIZE=64"]


class Pooled(model.CNN):
    """The CNN with its dilated layers at half the resolution: 2x2 max pooling before them, nearest upsampling after."""

    def forward(self, mazes, plan=None):
        x = F.relu(self.enter(model.planes(mazes)))
        whole, x = x, F.max_pool2d(x, 2, ceil_mode=True)
        for block in self.blocks:
            x = x + F.relu(block(x))
        x = whole + F.interpolate(x, scale_factor=2)[..., :whole.shape[2], :whole.shape[3]]
        return self.leave(x).permute(1, 2, 3, 0)


def one_run(settings, folder):
    """(summary, history) of one `main.train` with these KEY=VALUE."""
    before, main.report = main.config(), lambda network, run, held_out, cached, device: (network, run, held_out, cached)
    try:
        main.override([f"OUT_DIR={folder}", f"PLOT_FILE={folder}/plot.png", "EVAL_MAZES=2000", "EVAL_EVERY=2", *settings])
        main.check()
        main.started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            network, run, held_out, cached = main.train()
        summary = main.average(main.evaluate(network, *held_out))
        return summary | dict(gap=main.average(main.evaluate(network, *cached))["success"] - summary["success"]), run["history"]
    finally:
        main.report = REPORT
        for name, value in before.items():
            setattr(main, name, value)


REPORT = main.report


def table(turns, common, seeds):
    print("\n| turned | success | q_error | gap | episodes to 99% | seconds to 99% | seconds in all |\n"
          "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for turn in turns:
        rows = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                summary, history = one_run([*common, *turn.split(), f"SEED={seed}"], folder)
            there = next((row for row in history if row["success"] >= 0.99), dict(episodes=float("inf"), seconds=float("inf")))
            rows.append((summary["success"], summary["q_error"], summary["gap"], there["episodes"], there["seconds"], history[-1]["seconds"]))
        success, error, gap, episodes, seconds, all_seconds = (statistics.median(column) for column in zip(*rows))
        reached = episodes < float("inf")
        print(f"| {turn or 'nothing'} | {success:.4f} ({min(row[0] for row in rows):.4f}) | {error:.1e} | {gap:.3f} "
              f"| {f'{episodes:,.0f}' if reached else '-'} | {f'{seconds:.1f}' if reached else '-'} | {all_seconds:.1f} |", flush=True)


if __name__ == "__main__":
    seeds = next((int(a.partition("=")[2]) for a in sys.argv[1:] if a.startswith("SEEDS=")), 3)
    common = [a for a in sys.argv[1:] if not a.startswith("SEEDS=")]
    model.MODELS["pooled"] = Pooled
    print(f"{seeds} seeds a row; all rows: {' '.join(common) or 'nothing else'}")
    table(TURNS, common, seeds)
    print(f"\nall rows: {SMALL}")
    table(SMALL_TURNS, [*SMALL.split(), *common], seeds)
