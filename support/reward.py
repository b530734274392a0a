"""Rewards beside the 1 for reaching the goal: novelty, and potential-based shaping."""

import torch

from maze import Mazes, distances
from model import along


def with_bonus(reward, mazes: Mazes, cells, novelty=0.0, shaping="none", gamma=1.0):
    """The reward (T, B) of a walk over `cells` (T + 1, B), with its bonus, and the potential there.

    novelty: what the first visit of a cell in an episode pays; walking to and fro earns nothing
    more. shaping: see `potential`; it adds gamma * potential(s') - potential(s), which leaves the
    best policy the best and takes potential(s) from its Q (Ng et al. 1999).
    """
    reached = cells == mazes.goal
    if novelty:
        t = torch.arange(float(len(cells)), device=cells.device)[:, None].expand_as(cells)
        first = torch.full(mazes.walls.shape, torch.inf, device=cells.device).flatten(0, 1)
        first.scatter_reduce_(0, cells, t, "amin")
        reward = reward + novelty * ((first.gather(0, cells) == t)[1:] & ~reached[:-1])
    if shaping == "none":
        return reward, torch.zeros((), device=cells.device).expand(cells.shape)
    phi = along(potential(mazes, shaping, gamma), cells) * ~reached
    return reward + gamma * phi[1:] - phi[:-1], phi


def bounds(novelty: float, steps: int) -> tuple[float, float]:
    """The least and the greatest return of an episode, shaping left out."""
    return 0.0, 1 + novelty * steps


def potential(mazes: Mazes, shaping: str, gamma: float) -> torch.Tensor:
    """What shaping holds each cell to be worth: (H, W, B).

    It is gamma to the power of the steps that remain once the cell is left, "manhattan": on a
    straight way, "oracle": on a shortest one; 0 in the goal and where it can't be reached.
    """
    if shaping == "oracle":
        distance = distances(mazes.walls, mazes.goal)
    else:
        h, w, _ = mazes.walls.shape
        y, x = (torch.arange(size, device=mazes.goal.device) for size in (h, w))
        distance = (y[:, None, None] - mazes.goal // w).abs() + (x[:, None] - mazes.goal % w).abs()
    return torch.where(distance > 0, gamma ** (distance - 1.0), 0.0)
