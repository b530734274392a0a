"""How it learns: the optimizer, a replay memory, minibatches, and an eye on the loss."""

import math
from typing import NamedTuple

import torch

from maze import Mazes, pack, unpack
from support.agents import returns
from support.process import UserError
from support.settings import kinds_of_agent


class Adam:
    """Adam (Kingma and Ba 2015). torch.optim's does the same, but takes seconds to be imported.

    clip: the greatest norm of the gradient.
    """

    def __init__(self, weights, lr, clip=torch.inf):
        self.weights, self.lr, self.clip, self.updates = list(weights), lr, clip, 0
        self.sizes = [w.numel() for w in self.weights]
        self.mean = torch.zeros(sum(self.sizes), device=self.weights[0].device)
        self.square = torch.zeros_like(self.mean)

    def step(self, losses):
        """A step down the gradient of the mean of losses (N,).

        Returns the mean, and the norm of the gradient before it is clipped: (2,).
        """
        loss = losses.sum() / max(1, len(losses))
        gradient = torch.cat([x.flatten() for x in torch.autograd.grad(loss, self.weights)])
        norm = gradient.norm()
        self.move(gradient * (self.clip / (norm + 1e-6)).clamp(max=1))
        return torch.stack([loss.detach(), norm])

    @torch.no_grad()
    def move(self, gradient, beta1=0.9, beta2=0.999, epsilon=1e-8):
        """gradient: of all weights, flattened, one after the other: as one vector they are fast."""
        self.updates += 1
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (self.square / (1 - beta2**self.updates)).sqrt_().add_(epsilon)
        change = (self.mean / root).mul_(-self.lr / (1 - beta1**self.updates))
        for w, part in zip(self.weights, change.split(self.sizes)):
            w += part.view_as(w)

    def state(self):
        """What it remembers, to be saved."""
        return dict(updates=self.updates, mean=self.mean, square=self.square)


class Replay:
    """The last `size` episodes, as cells and actions of a bit-packed maze: about 3 bytes a step.

    Drawn with probability priority ** alpha / sum (Schaul et al. 2016); alpha 0: uniformly.
    """

    kept = "walls", "goal", "cells", "actions", "priority"

    def __init__(self, size, grid, length, alpha, device):
        self.size, self.grid, self.alpha, self.stored, self.next = size, grid, alpha, 0, 0
        cell = torch.int16 if grid * grid < 2**15 else torch.int32
        self.walls = torch.empty(math.ceil(grid * grid / 8), size, dtype=torch.uint8, device=device)
        self.goal = torch.empty(size, dtype=cell, device=device)
        self.cells = torch.empty(length + 1, size, dtype=cell, device=device)
        self.actions = torch.empty(length, size, dtype=torch.uint8, device=device)
        self.priority = torch.zeros(size, device=device)

    @classmethod
    def of(cls, settings, device):
        """The memory that main.py's constants ask for."""
        alpha = settings["PRIORITY_ALPHA"] if settings["REPLAY"] == "prioritized" else 0.0
        length = settings["MAX_EP_LENGTH"]
        return cls(settings["REPLAY_SIZE"], settings["GRID"], length, alpha, device)

    def add(self, mazes, cells, actions):
        """Stores episodes, with top priority, over the oldest where it is full: `size` at most."""
        n = len(mazes.goal)
        place = torch.arange(self.next, self.next + n, device=self.goal.device) % self.size
        self.walls[:, place] = pack(mazes.walls)
        self.goal[place] = mazes.goal.to(self.goal.dtype)
        self.cells[:, place] = cells.to(self.cells.dtype)
        self.actions[:, place] = actions.to(torch.uint8)
        self.priority[place] = self.priority.max() if self.stored else 1.0
        self.next = (self.next + n) % self.size
        self.stored = min(self.stored + n, self.size)

    def sample(self, n, generator, beta=0.0):
        """(mazes, cells, actions, index, weight) of n stored episodes, with replacement.

        weight (n,): the importance weights (stored * probability) ** -beta, over the greatest.
        """
        share = self.priority[: self.stored] ** self.alpha
        heap = share.cumsum(0, dtype=torch.float32 if share.device.type == "mps" else torch.float64)
        dice = torch.rand(n, generator=generator, device=share.device, dtype=heap.dtype) * heap[-1]
        index = torch.searchsorted(heap, dice, right=True).clamp(max=self.stored - 1)
        weight = share[index] ** -beta
        cells = self.cells[:, index].long()
        walls = unpack(self.walls[:, index], self.grid, self.grid)
        mazes = Mazes(walls, self.goal[index].long(), cells[0])
        return mazes, cells, self.actions[:, index].long(), index, weight / weight.max()

    def set_priority(self, index, steps, errors):
        """Sets the priorities of the n episodes at `index` from the TD errors in some steps.

        steps, errors (N,): time * n + episode, and the error there; in all others it is 0. Mostly
        the greatest, in part the mean, as in R2D2 (Kapturowski et al. 2019).
        """
        error = torch.zeros(len(self.actions) * len(index), device=errors.device)
        error = error.scatter(0, steps, errors).view(len(self.actions), -1)
        self.priority[index] = 0.9 * error.abs().amax(0) + 0.1 * error.abs().mean(0) + 1e-6

    def state(self):
        """All of it, to be saved; `restore` takes it back."""
        kept = {name: getattr(self, name)[..., : self.stored].clone() for name in self.kept}
        return dict(kept, stored=self.stored, next=self.next)

    def restore(self, state):
        self.stored, self.next = state["stored"], state["next"]
        for name in self.kept:
            getattr(self, name)[..., : self.stored] = state[name]


class Learner(NamedTuple):
    """All that changes while it learns. replay: a `Replay`, or None."""

    online: torch.nn.Module
    target: torch.nn.Module
    optimizer: Adam
    replay: Replay | None
    generator: torch.Generator


def minibatches(counts, number: int, kinds=None):
    """Splits B episodes into `number` parts: [(slice of the episodes, their steps that count)].

    counts (T, B) bool. kinds (T, B): of the steps of a part that have the same number, one counts:
    else views in which nothing is to be seen drown the rest. Steps (N,) are numbered in their part:
    time * episodes + episode.
    """
    t, b = counts.shape
    parts = [slice(i * b // number, (i + 1) * b // number) for i in range(number)]
    if kinds is not None:
        part = (torch.arange(1, b + 1, device=counts.device) * number - 1) // b
        kinds = torch.where(counts, part * (kinds.max() + 1) + kinds, -1)
        kinds, order = kinds.flatten().sort()
        first = torch.ones_like(kinds, dtype=torch.bool)
        first[1:] = kinds[1:] != kinds[:-1]
        counts = counts & torch.empty_like(first).scatter_(0, order, first).view(t, b)
    masks = [counts[:, part].flatten() for part in parts]
    sizes = torch.stack([mask.sum() for mask in masks]).tolist()
    steps = torch.cat(masks).nonzero()[:, 0].split(sizes)
    return [(part, own - t * part.start) for part, own in zip(parts, steps)]


# --------------------------------------------------------------------------------------------------
# An eye on the loss


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
