"""Checkpoints: the weights of a network, the settings that made it, and what a run needs to go on."""
import hashlib
import io
import warnings

import torch

from maze import UserError, replacing
from model import CORES
from support.window import MEMORIES, build

CHECKPOINT_FORMAT = 5


def save_checkpoint(path, network, config, **progress):
    """Writes the network's weights with the settings that made it, and what a run needs to go on, atomically."""
    file = io.BytesIO()  # in memory first: a disk that fills up is then an OSError, which torch's own writer hides
    torch.save(dict(format=CHECKPOINT_FORMAT, config=config, weights=network.state_dict(), progress=progress), file)
    data = file.getvalue()
    with replacing(path) as beside, open(beside, "wb") as file:
        file.write(hashlib.sha256(data).digest() + data)


def sane(settings, weights):
    """Whether `build` can take these settings of a file that may come from anywhere, and won't ask for more memory than there is."""
    widest = max(size for tensor in weights.values() for size in tensor.shape)
    whole = all(type(settings[name]) is int and low <= settings[name] <= high
                for name, low, high in (("GRID", 5, 256), ("WIDTH", 0, widest), ("LOOKS", 0, 2 ** 31), ("VISION", 0, settings["GRID"] - 1)))
    return (whole and type(settings["GAMMA"]) is float and 0 < settings["GAMMA"] < 1 and type(settings["COMPASS"]) is bool
            and settings["MODEL"] in CORES and settings["MEMORY"] in MEMORIES)


def load_checkpoint(path, device):
    """(network, config, progress) of a file that `save_checkpoint` wrote. It is read as plain data: no code in it can run."""
    foreign = UserError(f"{path} is not a checkpoint of this program, or is damaged: train one with `python main.py`")
    try:
        with open(path, "rb") as file:
            digest, data = file.read(32), file.read()
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}: train one with `python main.py`, or name another, CHECKPOINT=file") from None
    if hashlib.sha256(data).digest() != digest:
        raise foreign
    try:
        with warnings.catch_warnings():  # about formats; whatever the file is, one line says what is wrong with it
            warnings.simplefilter("ignore")
            saved = dict(torch.load(io.BytesIO(data), map_location=device, weights_only=True))
        if saved["format"] != CHECKPOINT_FORMAT:
            raise UserError(f"{path} is a checkpoint of format {saved['format']}, this program reads {CHECKPOINT_FORMAT}: train again")
        if not sane(saved["config"], saved["weights"]):
            raise foreign
        network = build(saved["config"])
        network.load_state_dict(saved["weights"])
        return network.to(device), saved["config"], saved["progress"]
    except UserError:
        raise
    except Exception:  # a foreign file can make the unpickler raise anything
        raise foreign from None
