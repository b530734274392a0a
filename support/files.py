"""Files of a run: the cache of training mazes, checkpoints; each is whole or not there at all."""

import hashlib
import io
import json
import math
import os
import warnings
from contextlib import contextmanager

import numpy as np
import torch

from maze import make_mazes
from support.agents import MEMORIES, build
from support.processes import UserError, attempt
from support.settings import HELD_OUT_SEED

CACHE_FORMAT = 4
CHECKPOINT_FORMAT = 10


@contextmanager
def replacing(path):
    """Gives a path to write to, and renames it to `path` when it is whole."""
    beside = f"{path}.{os.getpid()}.part"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        yield beside
        os.replace(beside, path)
    except OSError as error:
        error.filename = path  # a disk that is full does not say whose file it was
        raise
    finally:
        if os.path.exists(beside):
            os.remove(beside)


# --------------------------------------------------------------------------------------------------
# The cache of training mazes, and the mazes held out from it


def load_cache(path, n: int, grid: int, seed: int, device="cpu", say=print) -> torch.Tensor:
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


def make_held_out(n: int, grid: int, cache, say=print, seed=HELD_OUT_SEED) -> torch.Tensor:
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
    file = io.BytesIO()  # in memory first: if the disk is full, that is then an OSError
    torch.save(
        dict(
            format=CHECKPOINT_FORMAT,
            config=settings,
            weights=network.state_dict(),
            progress=progress,
        ),
        file,
    )
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
            wanted = build(settings).state_dict()
        if difference := differs(wanted, weights):
            raise UserError(
                f"{path} was made by another network than {settings['MODEL']} is now: "
                f"{difference}; train again, or undo the change"
            )
        network = build(settings)
        network.load_state_dict(weights)
        return network.to(device), settings, saved["progress"]
    except UserError:
        raise
    except Exception:  # a foreign file can make the unpickler raise anything
        raise foreign from None


def differs(now, saved):
    """How the weights of the network differ in name or shape from those saved, in words; or ""."""
    shapes = [
        {name: tuple(tensor.shape) for name, tensor in weights.items()} for weights in (now, saved)
    ]
    parts = []
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        here, there = (part.get(name) for part in shapes)
        if here != there:
            parts.append(f"{name} is {here or 'missing'} now and {there or 'missing'} in the file")
    return "; ".join(parts)
