"""Checkpoints: a network's weights, the settings that made it, and what a run needs to go on."""

import hashlib
import io
import warnings

import torch

from maze import replacing
from model import CORES
from support.agents import build
from support.errors import UserError
from support.window import MEMORIES

CHECKPOINT_FORMAT = 8


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
        if not can_build(settings, weights):
            raise foreign
        network = build(settings)
        if difference := differs(network.state_dict(), weights):
            raise UserError(
                f"{path} was made by another network than {settings['MODEL']} is now: "
                f"{difference}; train again, or undo the change"
            )
        network.load_state_dict(weights)
        return network.to(device), settings, saved["progress"]
    except UserError:
        raise
    except Exception:  # a foreign file can make the unpickler raise anything
        raise foreign from None


def can_build(settings, weights):
    """Whether `build` can take these settings of a file that may come from anywhere, without asking
    for more memory than the weights of the file do."""
    widest = max(size for tensor in weights.values() for size in tensor.shape)
    limits = dict(
        GRID=(5, 256), WIDTH=(1, widest), LOOKS=(0, 2**31), VISION=(0, settings["GRID"] - 1)
    )
    return (
        all(
            type(settings[name]) is int and low <= settings[name] <= high
            for name, (low, high) in limits.items()
        )
        and type(settings["GAMMA"]) is float
        and 0 < settings["GAMMA"] < 1
        and type(settings["COMPASS"]) is bool
        and settings["MODEL"] in CORES
        and settings["MEMORY"] in MEMORIES
    )


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
