"""A run from its first line to its last: saving, resuming, progress, and how it ends."""

import csv
import os
import time
from typing import NamedTuple

import torch

from support import pictures, processes
from support.agents import returns
from support.files import load_checkpoint, replacing, save_checkpoint
from support.learning import Adam, Replay
from support.processes import UserError, attempt, columns, say
from support.settings import kinds_of_agent, plot_file

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
        self.plotted, self.saved = time.perf_counter(), True
        if os.path.exists(self.checkpoint) and not settings["RESUME"]:
            aside = self.checkpoint.replace(".pt", ".previous.pt")
            os.replace(self.checkpoint, aside)
            say(f"the agent of the last run is kept as {aside}, until another run begins")

    def begin(self, learner, cache, batches):
        """Prints what the run will be, in two lines. cache: the training mazes."""
        self.episodes = batches * self.settings["BSZ"]
        stored = learner.replay.bytes() if learner.replay else 0
        own = " ".join(f"{name}={self.settings[name]}" for name in self.replaced)
        say(
            f"{self.settings['MODEL']} with {parameters(learner.online):,} weights, "
            f"{self.episodes:,} episodes on {cache.device}; maze cache {cache.numel() / 1e6:.1f} "
            f"MB, replay {stored / 1e6:.1f} MB\n"
            f"set by this kind of agent or by you: {own or 'nothing'}"
        )

    def evaluated(self, learner, record):
        """Saves all that `resume` needs, prints a line, and draws the plot if it is time.

        A run goes on without its files; at its end the checkpoint is tried once more.
        """
        self.learner, seconds = learner, time.perf_counter() - record["began"]
        self.progress = dict(record, began=None, stopped=0, seconds=seconds)
        self.saved = attempt(self.checkpoint, self.save)
        table = os.path.join(self.settings["OUT_DIR"], "metrics.csv")
        attempt(table, write_table, table, record["history"])
        show_progress(record, self.episodes, self.settings)
        if time.perf_counter() - self.plotted > self.settings["PLOT_EVERY"]:
            attempt(self.plot_file, pictures.course, self.plot_file, record, self.settings)
            self.plotted = time.perf_counter()

    def save(self):
        online, target, optimizer, replay, generator = self.learner
        save_checkpoint(
            self.checkpoint,
            online,
            self.settings,
            **self.progress,
            processes=processes.WORLD,
            target=target.state_dict(),
            optimizer=optimizer.state(),
            generator=generator.get_state(),
            dice=torch.get_rng_state(),  # torch's own: a plain CNN's number of rounds
            replay=replay.state() if replay else None,
        )


def write_table(path, rows):
    with replacing(path) as beside, open(beside, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def resume(path, settings, learner, began) -> dict:
    """Takes a run up where its checkpoint left it; returns its progress. began: now."""
    saved, then, record = load_checkpoint(path, next(learner.online.parameters()).device)
    for name, value in settings.items():
        if name not in FREE and then.get(name) != value:
            raise UserError(
                f"{name}={value} now, but the run in {path} has {name}={then.get(name)}: resume "
                "with the same constants"
            )
    if (number := record.pop("processes")) != (now := processes.WORLD):
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
    return dict(record, began=began - record.pop("seconds"))


def show_progress(record, episodes, settings):
    """One line: where the run is, how fast, how long still, how good. A terminal's is rewritten."""
    row = record["history"][-1]
    share, spent = row["episodes"] / episodes, row["seconds"]
    line = (
        f"{share:4.0%}  {row['episodes']:,} episodes  {row['episodes'] / spent:,.0f}/s  "
        f"{spent / share - spent:3.0f} s left  "
    )
    more = f"level {row['level']:.2f}  loss {row['loss']:.1e}  q_error {row['q_error']:.1e}  "
    good = f"success {row['success']:.3f}"
    if row["wrong_views"] is not None:
        good += f"  wrong views {row['wrong_views']:,}"
    width = (columns() or 1000) - 1  # a line that wraps can't be rewritten
    fits = len(line + more + good) <= width
    say((line + more * fits + good)[:width], replaced=True)
    said, before = (warning(rows, settings) for rows in (record["history"], record["history"][:-1]))
    if said and not before:
        say(f"watch out: {said}")


def warning(history, settings):
    """What to say when the loss is too high and stays so; None while all is well."""
    if not history:
        return None
    least, most = 0, 1  # of what there is to learn; for those that learn steps, on average
    if settings["UNIT"] == "q" and not kinds_of_agent(settings)[0].startswith("thinks"):
        least, most = returns(settings)
    greatest = max(row["loss"] for row in history)
    # A new level of the curriculum may cost something: only rows of the last level are compared.
    losses = [row["loss"] for row in history if row["level"] == history[-1]["level"]]
    if greatest > 1.1 * (most - least) and history[-1]["success"] < 0.5:
        what = f"the loss was {greatest:.1e}, worse than to say 0 always, and goals are missed"
    elif len(losses) >= 4 and min(losses[-3:]) >= max(0.1, 10 * min(losses[:-3])):
        what = f"the loss has risen, from {min(losses[:-3]):.1e} to {losses[-1]:.1e}"
    else:
        return None
    causes = [f"LR is too high (now {settings['LR']:g})"]
    if settings["TARGET_SYNCS"] > 1:
        causes.append(f"targets move too fast (TARGET_SYNCS={settings['TARGET_SYNCS']}; try 1)")
    if settings["CREDIT"] == "lambda":
        causes.append(f"credit comes from far away (LAMBDA={settings['LAMBDA']:g}; try less)")
    return f"{what}. Usual causes: {', '.join(causes)}"


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
    """function(), under cProfile: prints the 30 slowest calls, saves all to `path`."""
    import cProfile
    import pstats

    calls = cProfile.Profile()
    result = calls.runcall(function)
    with replacing(path) as beside:
        calls.dump_stats(beside)
    pstats.Stats(calls).sort_stats("cumulative").print_stats(30)
    return result
