"""The files of a run: its mazes and checkpoints, and what it tells of itself while it trains."""

import csv
import hashlib
import io
import json
import math
import os
import time
import warnings

import numpy as np
import torch

from maze import make_mazes
from support import pictures
from support.agents import MEMORIES, build
from support.learning import parameters, warning
from support.process import UserError, attempt, columns, replacing, say
from support.settings import HELD_OUT_SEED, plot_file

CACHE_FORMAT = 4
CHECKPOINT_FORMAT = 12
# What a run may be resumed with, though it was begun with other values.
FREE = (
    "RESUME OUT_DIR PLOT_FILE PLOT_EVERY DEVICE THREADS CHECKPOINT PROFILE NUM_EPISODES EVAL_MAZES "
    "UNTIL_PROVED"
).split()


# --------------------------------------------------------------------------------------------------
# The cache of training mazes, and the mazes held out from it


def load_cache(path, n: int, grid: int, seed: int, device="cpu") -> torch.Tensor:
    """The n training mazes, bit-packed as by `make_mazes`.

    They are read from `path` when its settings match, else made and saved; on the CPU, so that they
    are the same ones whatever the device.
    """
    settings = json.dumps(dict(format=CACHE_FORMAT, mazes=n, grid=grid, seed=seed))
    shape, why = (math.ceil(grid * grid / 8), n), "there is none yet"
    if os.path.exists(path):
        try:
            with np.load(path, allow_pickle=False) as file:  # zip's checksum finds any damage
                stored, packed = str(file["settings"]), file["packed"]
            if (stored, packed.shape, packed.dtype) == (settings, shape, np.uint8):
                return torch.from_numpy(packed).to(device)
            why = f"{path} has other settings: {stored}"
        except Exception as error:  # a damaged file can make the reader raise anything
            why = f"{path} cannot be read: {type(error).__name__}"
    say(f"making {n:,} mazes of {grid}x{grid} ({why})")
    packed = make_mazes(n, grid, torch.Generator().manual_seed(seed))
    attempt(path, save_cache, path, settings, packed.numpy())
    return packed.to(device)


def save_cache(path, settings, packed):
    with replacing(path) as beside, open(beside, "wb") as file:
        np.savez(file, settings=settings, packed=packed)


def make_held_out(n: int, grid: int, cache, seed=HELD_OUT_SEED) -> torch.Tensor:
    """n mazes from their own seed, bit-packed; one that is also in the `cache` is made anew.

    A small grid may not have enough different mazes for that: then some are shared, and it says so.
    """
    generator = torch.Generator().manual_seed(seed)
    packed, known = make_mazes(n, grid, generator), set(fingerprints(cache))
    for again in range(8):
        shared = [i for i, maze in enumerate(fingerprints(packed)) if maze in known]
        if not shared or again == 7:
            break
        packed[:, shared] = make_mazes(len(shared), grid, generator)
    if shared:
        found = f"{len(shared):,} of {n:,} held-out mazes are also training mazes"
        say(f"GRID={grid} has too few different mazes: {found}")
    return packed.to(cache.device)


def fingerprints(packed):
    """The bytes of each maze of a bit-packed batch, to be compared."""
    return [maze.tobytes() for maze in packed.cpu().numpy().T]


# --------------------------------------------------------------------------------------------------
# Checkpoints: an agent's weights, the settings that made it, and what a run needs to go on


def save_checkpoint(path, network, settings, **progress):
    """Writes a checkpoint: the old file or the whole new one is there, never a half."""
    saved = dict(format=CHECKPOINT_FORMAT, config=settings, progress=progress)
    file = io.BytesIO()  # in memory first: if the disk is full, that is then an OSError
    torch.save(saved | dict(weights=network.state_dict()), file)
    data = file.getvalue()
    with replacing(path) as beside, open(beside, "wb") as file:
        file.write(hashlib.sha256(data).digest() + data)


def load_checkpoint(path, device):
    """(network, settings, progress) of a file that `save_checkpoint` wrote.

    Raises UserError for any other. The file is read as plain data: no code in it can run.
    """
    foreign = UserError(
        f"{path} is not a checkpoint of this program, or is damaged: train one with "
        "`python main.py`"
    )
    try:
        with open(path, "rb") as file:
            digest, data = file.read(32), file.read()
    except FileNotFoundError:
        raise UserError(
            f"there is no checkpoint {path}: train one with `python main.py`, or name another, for "
            "`solve` as CHECKPOINT=file, for RESUME as OUT_DIR=folder"
        ) from None
    if hashlib.sha256(data).digest() != digest:
        raise foreign
    try:
        with warnings.catch_warnings():  # one line says what is wrong with the file, whatever it is
            warnings.simplefilter("ignore")
            saved = dict(torch.load(io.BytesIO(data), map_location=device, weights_only=True))
        if saved["format"] != CHECKPOINT_FORMAT:
            raise UserError(
                f"{path} is a checkpoint of format {saved['format']}, this program reads "
                f"{CHECKPOINT_FORMAT}: train again"
            )
        weights, settings = saved["weights"], saved["config"]
        for name, most in ("LOOKS", 2**31), ("VISION", settings["GRID"] - 1):
            if type(settings[name]) is not int or not 0 <= settings[name] <= most:
                raise foreign
        if type(settings["COMPASS"]) is not bool or settings["MEMORY"] not in [*MEMORIES, "map"]:
            raise foreign
        with torch.device("meta"):  # takes no memory, whatever the file asks for
            empty = build(settings)
        try:
            empty.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise UserError(
                f"{path} was made by another network than {settings['MODEL']} is now; train again, "
                f"or undo the change. {' '.join(str(error).split())}"
            ) from None
        network = build(settings)
        network.load_state_dict(weights)
        return network.to(device), settings, saved["progress"]
    except UserError:
        raise
    except Exception:  # a foreign file can make the unpickler raise anything
        raise foreign from None


def resume(path, settings, learner, began) -> dict:
    """Takes a run up where its checkpoint left it; returns its progress. began: now."""
    saved, then, record = load_checkpoint(path, next(learner.online.parameters()).device)
    for name, value in settings.items():
        if name not in FREE and then.get(name) != value:
            raise UserError(
                f"{name}={value} now, but the run in {path} has {name}={then.get(name)}: resume "
                "with the same constants"
            )
    learner.online.load_state_dict(saved.state_dict())
    learner.target.load_state_dict(record.pop("target"))
    vars(learner.optimizer).update(record.pop("optimizer"))
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


# --------------------------------------------------------------------------------------------------
# While it trains


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

    def begin(self, learner, cache, batches):
        """Prints what the run will be. cache: the training mazes."""
        if os.path.exists(self.checkpoint) and not self.settings["RESUME"]:
            aside = os.path.join(self.settings["OUT_DIR"], "checkpoint.previous.pt")
            os.replace(self.checkpoint, aside)
            say(f"the agent of the last run is kept as {aside}, until another run begins")
        self.episodes, replay = batches * self.settings["BSZ"], learner.replay
        stored = sum(getattr(replay, name).nbytes for name in replay.kept) if replay else 0
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
