"""A run from its first line to its last: saving, resuming, progress, and how it ends."""

import csv
import os
import sys
import time
from typing import NamedTuple

import torch

from support import pictures, processes
from support.adam import Adam
from support.errors import UserError
from support.files import load_checkpoint, replacing, save_checkpoint
from support.processes import say
from support.replay import Replay
from support.settings import plot_file

# What a run may be resumed with, though it was begun with other values.
FREE = (
    "RESUME OUT_DIR PLOT_FILE PLOT_EVERY DEVICE THREADS CHECKPOINT PROFILE NUM_EPISODES EVAL_MAZES "
    "UNTIL_PROVED"
).split()


class Learner(NamedTuple):
    """All that changes while it learns. replay: a `Replay`, or None."""

    online: torch.nn.Module
    target: torch.nn.Module
    optimizer: Adam
    replay: Replay | None
    generator: torch.Generator


class Reporter:
    """Tells of a run while it trains: prints its progress, saves its checkpoints, draws its plot.

    settings: main.py's constants for this run; written: as they stand in the file.
    """

    def __init__(self, settings, written):
        self.settings = settings
        self.replaced = [name for name in settings if settings[name] != written[name]]
        self.plot_file = plot_file(settings, written)
        self.checkpoint = os.path.join(settings["OUT_DIR"], "checkpoint.pt")
        self.plotted = time.perf_counter()
        if not settings["RESUME"]:
            set_aside(self.checkpoint)

    def begin(self, learner, cache, batches):
        """Prints what the run will be, in two lines. cache: the training mazes."""
        self.episodes = batches * self.settings["BSZ"]
        stored = learner.replay.bytes() if learner.replay else 0
        own = " ".join(f"{name}={self.settings[name]}" for name in self.replaced)
        say(
            f"{self.settings['MODEL']} with {parameters(learner.online):,} weights, "
            f"{self.episodes:,} episodes on {cache.device}; maze cache {cache.numel() / 1e6:.1f} "
            f"MB, replay {stored / 1e6:.1f} MB"
        )
        say(f"set by this kind of agent or by you: {own or 'nothing'}")

    def evaluated(self, learner, record):
        """Saves all that `resume` needs, prints a line, and draws the plot if it is time."""
        seconds = time.perf_counter() - record["began"]
        keep(self.checkpoint, dict(record, seconds=seconds), learner, self.settings)
        show_progress(record, self.episodes, self.settings)
        if time.perf_counter() - self.plotted > self.settings["PLOT_EVERY"]:
            self.plotted = time.perf_counter()
            pictures.course(self.plot_file, record, self.settings)


def set_aside(path):
    """Keeps the checkpoint of an earlier run, which a new one would replace, and says so."""
    if os.path.exists(path):
        aside = f"{path.removesuffix('.pt')}.previous.pt"
        os.replace(path, aside)
        say(f"the agent of the last run is kept as {aside}, until another run begins")


def keep(path, record, learner, settings):
    """Saves all that `resume` needs, and metrics.csv beside it."""
    progress = {name: value for name, value in record.items() if name != "began"}
    save_checkpoint(
        path,
        learner.online,
        settings,
        **progress,
        processes=processes.WORLD,
        target=learner.target.state_dict(),
        optimizer=learner.optimizer.state(),
        generator=learner.generator.get_state(),
        dice=torch.get_rng_state(),  # torch's own: a plain CNN's number of rounds
        replay=learner.replay.state() if learner.replay else None,
    )
    metrics = os.path.join(os.path.dirname(path), "metrics.csv")
    with replacing(metrics) as beside, open(beside, "w", newline="") as file:
        writer = csv.DictWriter(file, record["history"][0])
        writer.writeheader()
        writer.writerows(record["history"])


def resume(path, settings, learner) -> dict:
    """Takes a run up where its checkpoint left it; returns its progress."""
    saved, then, record = load_checkpoint(path, next(learner.online.parameters()).device)
    for name, value in settings.items():
        if name not in FREE and then.get(name) != value:
            raise UserError(
                f"{name}={value} now, but the run in {path} has {name}={then.get(name)}: resume "
                "with the same constants"
            )
    if (number := record.pop("processes")) != processes.WORLD:
        now = processes.WORLD
        raise UserError(f"the run in {path} was begun with {number} processes, not {now}")
    learner.online.load_state_dict(saved.state_dict())
    learner.target.load_state_dict(record.pop("target"))
    learner.optimizer.restore(record.pop("optimizer"))
    try:
        learner.generator.set_state(record.pop("generator").cpu())
    except RuntimeError:
        raise UserError(
            f"the run in {path} was begun on another kind of device, whose random numbers are not "
            f"those of {learner.generator.device.type}: choose the same DEVICE"
        ) from None
    torch.set_rng_state(record.pop("dice").cpu())
    done = record["batch"] * settings["BSZ"]
    if settings["UNTIL_PROVED"] and record["proved"]:
        say(f"nothing is left to learn: the agent in {path} is proved")
    elif done >= settings["NUM_EPISODES"]:
        say(f"nothing is left to train: the run in {path} has had its {done:,} episodes")
    else:  # a row that is there only because the run was stopped goes
        bsz, every, rows = settings["BSZ"], settings["EVAL_EVERY"], record["history"]
        record["history"] = [row for row in rows if (row["episodes"] // bsz - 1) % every == 0]
    memory = record.pop("replay")
    if learner.replay:
        learner.replay.restore(memory)
    return dict(record, began=time.perf_counter() - record.pop("seconds"))


def show_progress(record, episodes, settings):
    """One line: where the run is, how fast, how long still, how good. A terminal's is rewritten."""
    row = record["history"][-1]
    share, spent = row["episodes"] / episodes, row["seconds"]
    line = (
        f"{share:4.0%}  {row['episodes']:,} episodes  {row['episodes'] / spent:,.0f}/s  "
        f"{spent / share - spent:3.0f} s left  level {row['level']:.2f}  loss {row['loss']:.1e}  "
        f"q_error {row['q_error']:.1e}  success {row['success']:.3f}"
    )
    if row["wrong_views"] is not None:
        line += f"  wrong views {row['wrong_views']:,}"
    if sys.stdout.isatty():
        say(f"\r{line:<140}", end="" if share < 1 else "\n")
    else:
        say(line)
    if said := warning(record["history"], settings):
        say(f"\nwatch out: {said}")


def warning(history, settings):
    """What to say when the loss has risen and stays high; None while all is well."""
    # A new level of the curriculum may cost something: only rows of the last level are compared.
    losses = [row["loss"] for row in history if row["level"] == history[-1]["level"]]
    if len(losses) < 4 or min(losses[-3:]) < max(0.1, 10 * min(losses[:-3])):
        return None
    causes = [f"LR is too high (now {settings['LR']:g})"]
    if settings["TARGET_SYNCS"] > 1:
        causes.append(f"targets move too fast (TARGET_SYNCS={settings['TARGET_SYNCS']}; try 1)")
    if settings["CREDIT"] == "lambda":
        causes.append(f"credit comes from far away (LAMBDA={settings['LAMBDA']:g}; try less)")
    rise = f"from {min(losses[:-3]):.1e} to {losses[-1]:.1e}"
    return f"the loss has risen, {rise}. Usual causes: {', '.join(causes)}"


def stop_if_not_finite(settings, *numbers):
    """Ends the run if any of these tensors contains NaN or inf."""
    if not torch.stack([x.isfinite().all() for x in numbers]).all():
        raise UserError(
            "the loss, its gradient or a weight contains NaN or inf, so nothing more can be "
            "learned; the last good checkpoint is kept. Try a smaller LR (now "
            f"{settings['LR']:g}) or GRAD_CLIP (now {settings['GRAD_CLIP']:g})"
        )


def parameters(network):
    return sum(weights.numel() for weights in network.parameters())


def profiled(function, path):
    """function() under cProfile: prints the 30 slowest calls, saves all to `path`."""
    import cProfile
    import pstats

    calls = cProfile.Profile()
    calls.runcall(function)
    with replacing(path) as beside:
        calls.dump_stats(beside)
    pstats.Stats(calls).sort_stats("cumulative").print_stats(30)
