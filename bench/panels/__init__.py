"""The panels of bench/lab.py, one file each, and what they share.

Each asks a QUESTION that a reader of the constants has, and has:

  PREDICTION                  the formula, in words, drawn dashed before anything is measured
  measure(fast, seeds)        dictionary of all that was measured, and of what was predicted
  checks(data)                [(what, predicted, measured)], held against each other
  draw(figure, data)          into a part of the page
  sentence(data)              to remember
"""

import math

import torch
from options import constants, own, train  # noqa: F401

import main
import maze
from support import plain

COLOURS = ["#0b6e99", "#d1495b", "#e9a23b", "#3c8d5a", "#7a5195", "#555555"]


def trained():
    """The agent that `main.train` makes with the constants as they stand."""
    return train()[0]


def some_mazes(n, grid, seed, farthest=None, difficulty=1.0):
    """(n mazes that no run trains on, starts at most that far, the distances there)."""
    mazes = own(n, grid, difficulty, 10**9 + seed, farthest)
    return mazes, maze.distances(mazes.walls, mazes.goal)


def arrived(agent, mazes, steps, epsilon=None, generator=None):
    """Which of the walks end in the goal: (B,) float."""
    episodes, _ = main.rollout(agent, mazes, steps, epsilon, generator)
    return (episodes.cells[-1] == mazes.goal).float()


def mean_by(group, x, n):
    """The mean of x in each of the groups 0..n - 1, and how many there are: two (n,)."""
    inside = (group >= 0) & (group < n)
    zeros, index = torch.zeros(n, dtype=torch.float64), group[inside].long()
    number = zeros.index_add(0, index, torch.ones_like(index, dtype=torch.float64))
    return zeros.index_add(0, index, x[inside].double()) / number, number


class Table(plain.QNetwork):
    """An agent that has a number for each action in each cell: values (4, H, W, M).

    In a batch of B mazes lane b has table b % M: those of the same maze can share one.
    """

    whole_maze = True

    def __init__(self, values):
        super().__init__()
        self.register_buffer("values", values)

    def all_q(self, lanes):
        return self.values.repeat(1, 1, 1, lanes // self.values.shape[3])

    def begin(self, mazes, farthest=None):
        return plain.Answers(self.all_q(len(mazes.goal)), 0)

    def visited(self, episodes):
        return maze.along(self.all_q(len(episodes.mazes.goal)), episodes.cells)

    def learn(self, episodes, td_target, counts, rate=1.0):
        """Moves each Q by `rate` of its way to the mean of its targets."""
        tables, cells = self.values.shape[3], self.values[0].numel()
        lane = torch.arange(counts.shape[1]) % tables
        index = episodes.actions * cells + episodes.cells[:-1] * tables + lane
        mean, number = mean_by(index[counts], td_target[counts], 4 * cells)
        flat = self.values.view(-1)
        flat += torch.where(number > 0, rate * (mean.to(flat.dtype) - flat), 0)


def axes_of(figure, n, **how):
    """n axes side by side in a panel, under its question and above its sentence."""
    room = dict(left=0.62 / figure.bbox.width * 140, right=1 - 0.12 / figure.bbox.width * 140)
    room |= dict(bottom=0.27, top=0.78, wspace=0.16 if how.get("sharey") else 0.28)
    return figure.subplots(1, n, gridspec_kw=room | how.pop("room", {}), **how)


def label(axes, x, y, text, colour="#333333", **how):
    """Text at a point, on a ground that keeps it legible."""
    how = dict(fontsize=10.5, color=colour, va="center") | how
    ground = dict(facecolor="white", edgecolor="none", alpha=0.8, pad=0.8)
    axes.text(x, y, text, bbox=ground, zorder=5, **how)


def band(axes, x, runs, colour, **how):
    """The mean over seeds, runs (seeds, N), in the least and the greatest as a band."""
    axes.fill_between(x, runs.amin(0), runs.amax(0), color=colour, alpha=0.2, lw=0)
    axes.plot(x, runs.mean(0), color=colour, **how)


def dashed(axes, x, y, colour, **how):
    """A prediction."""
    axes.plot(x, y, color=colour, ls=(0, (4, 2)), lw=1.1, zorder=1, **how)


def crossing(x, y, level=0.5):
    """Where y falls under the level for the first time, between two x: on a straight line."""
    for a, b, high, low in zip(x[:-1], x[1:], y[:-1], y[1:]):
        if high >= level > low:
            return float(a + (b - a) * (high - level) / (high - low))
    return math.nan


def half_at(x, y):
    """Where y falls under a half, on a logarithmic scale of x."""
    return math.exp(crossing([math.log(place) for place in x], y.tolist()))
