"""How well an agent does: held against breadth-first search and the exact Q."""

import time

import torch

import maze
import model
from maze import Mazes
from support.settings import HELD_OUT_SEED


def score(episodes, distance, wrong, counts) -> dict[str, torch.Tensor]:
    """The metrics of each of B greedy episodes: a dictionary of float tensors (B,).

    distance (H, W, B): the exact one. wrong (4, ..., B): Q - Q*, where counts (..., B) is true.
    """
    mazes, away = episodes.mazes, episodes.cells != episodes.mazes.goal
    walked, shortest, success = away[:-1].sum(0), maze.shortest(mazes, distance), ~away[-1]
    wrong, counts = (wrong * counts).flatten(1, -2), counts.flatten(0, -2).sum(0) * 4
    loops = torch.zeros_like(success)
    loops[~success] = goes_round(episodes.cells[:, ~success])
    found = dict(success=success, optimal=success & (walked == shortest), loops=loops)
    found["spl"] = success * shortest / torch.maximum(walked, shortest)  # Anderson et al. 2018
    found["q_error"] = wrong.abs().sum((0, 1)) / counts
    found["q_bias"] = wrong.sum((0, 1)) / counts
    return {name: values.float() for name, values in found.items()}


def q_minus_optimal(network, episodes, thoughts, distance, gamma):
    """(Q - Q*, where it counts): in all open cells but the goal, for one that sees the whole maze.

    Q of an agent with a window depends on its way: it is compared in the cells of that way.
    """
    mazes = episodes.mazes
    exact = maze.optimal_q(mazes, distance, gamma)
    if network.whole_maze:
        return thoughts.q_values() - exact, ~mazes.walls & (distance != 0)
    q = q_along(network, episodes, thoughts)
    return q - model.along(exact, episodes.cells), episodes.cells != mazes.goal


def q_along(network, episodes, thoughts):
    """Q in the visited cells (4, T + 1, B), in its own unit, without the potential of shaping."""
    seen = thoughts.along(episodes.cells)
    return network.q(seen) * network.log2_m(seen).exp2() + episodes.potential


def goes_round(cells):
    """Whether a walk (T + 1, B) ends in a round of at most T / 2 steps, walked twice over: (B,)."""
    t = len(cells) - 1
    caught = torch.zeros_like(cells[0], dtype=torch.bool)
    for period in range(1, t // 2 + 1):
        caught |= (cells[t - period :] == cells[t - 2 * period : t - period + 1]).all(0)
    return caught


def row(settings, record, learning_rate, scores, means) -> dict:
    """A row of a run's history. means: tensors, of which the mean counts.

    scores: of EVAL_SAMPLE held-out mazes, then of training mazes.
    """
    held_out = min(settings["EVAL_SAMPLE"], settings["EVAL_MAZES"])
    return dict(
        episodes=record["batch"] * settings["BSZ"],
        env_steps=record["env_steps"],
        updates=record["batch"] * settings["UPDATES"],
        seconds=time.perf_counter() - record["began"],
        level=record["level"],
        **{name: numbers.mean().item() for name, numbers in means.items()},
        learning_rate=learning_rate,
        **average(scores, slice(held_out)),
        train_success=average(scores, slice(held_out, None))["success"],
    )


def average(scores, part=slice(None)) -> dict[str, float]:
    """The mean of each metric."""
    return {name: values[part].mean().item() for name, values in scores.items()}


def by_distance(scores, shortest, wide=10):
    """success and q_error of mazes whose shortest way takes 1..10, 11..20, ... steps."""
    bands, found = (shortest - 1).div(wide, rounding_mode="floor"), {}
    for band in bands.unique().tolist():
        inside = bands == band
        found[f"{band * wide + 1}-{(band + 1) * wide}"] = dict(
            mazes=int(inside.sum()),
            success=scores["success"][inside].mean().item(),
            q_error=scores["q_error"][inside].mean().item(),
        )
    return found


def one_look(thinker, device="cpu", n=2000):
    """`learned_backup` in n mazes of random walls, in which a patch takes all its forms."""
    mazes = random_walls(n, 16, torch.Generator().manual_seed(HELD_OUT_SEED)).to(device)
    return learned_backup(thinker, mazes, maze.distances(mazes.walls, mazes.goal))


@torch.no_grad()
def learned_backup(thinker, mazes, distance):
    """(Q of one look, exact Q), both (4, N), in units of m, where all that the core sees is exact.

    exact: gamma * V*(s') for each action in each cell, but the goal, from which it can be reached.
    distance (H, W, B): the exact one.
    """
    thoughts = model.Thoughts(thinker, mazes.walls, mazes.goal)
    worth = torch.where(distance < 0, model.NO_VALUE, model.GRAIN * (1.0 - distance))
    thoughts.inside(thoughts.worth).copy_(worth.masked_fill(mazes.walls, model.NO_CELL))
    cell, lane = (distance > 0).flatten(0, 1).nonzero().t()
    at = thoughts.index(cell, lane)
    looks = [thinker.look(thoughts.patches(part)) for part in at.split(thoughts.block)]
    learned, m = (torch.cat(parts, -1) for parts in zip(*looks))
    there = thoughts.worth[at + thoughts.beside]
    there = torch.where(there == model.NO_CELL, thoughts.worth[at], there)  # a wall: it stays
    return learned, ((there - model.GRAIN - m) * thinker.log2_unit).exp2()


def relative_error(learned, exact):
    """(mean, worst) of |learned - exact| / exact."""
    error = (learned - exact).abs() / exact
    return error.mean().item(), error.max().item()


def random_walls(n, grid, generator, most=0.7):
    """n `Mazes` of random walls, their share from 0 to `most`. The start is the goal."""
    device = generator.device
    share = most * torch.rand(n, generator=generator, device=device)
    walls = torch.rand(grid, grid, n, generator=generator, device=device) < share
    walls[0, 0] = False  # each has an open cell
    goal = maze.choose(~walls, generator)
    return Mazes(walls, goal, goal)
