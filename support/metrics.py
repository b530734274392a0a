"""How well an agent does: held against breadth-first search and the exact Q."""

import time

import torch

import maze
import model
from support.settings import HELD_OUT_SEED


def test_sets(settings, packed, cells=2**22):
    """`test_set` in parts of so many cells: all at once may be more than the memory holds."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    for part in packed.split(max(1, cells // settings["GRID"] ** 2), 1):
        yield test_set(settings, part, generator)


def test_set(settings, packed, generator=None):
    """(the bit-packed mazes, each with all its walls, a goal and a start, and the distances there).

    Drawn on the CPU, so that they are the same on any device.
    """
    generator = generator or torch.Generator().manual_seed(HELD_OUT_SEED)
    how = settings["GRID"], 1.0, settings["MAX_START_DISTANCE"], settings["GOAL"], generator
    mazes = maze.draw(packed.cpu(), *how).to(packed.device)
    return mazes, maze.distances(mazes.walls, mazes.goal)


def score(network, episodes, sight, distance, exact) -> dict[str, torch.Tensor]:
    """The metrics of each of B greedy episodes: a dictionary of float tensors (B,).

    sight: what the network knew of the mazes. distance (H, W, B) and Q, exact (4, H, W, B): the
    right ones. Q of an agent that sees the whole maze is held against Q* in every cell from which
    the goal can be reached; that of an agent with a window depends on its way: in the cells of it.
    """
    mazes, away = episodes.mazes, episodes.cells != episodes.mazes.goal
    walked, shortest, success = away[:-1].sum(0), maze.shortest(mazes, distance), ~away[-1]
    if network.whole_maze:
        wrong, counts = sight.q() - exact, distance > 0
    else:
        wrong, counts = sight.q() - maze.along(exact, episodes.cells), away
    wrong, number = torch.where(counts, wrong, 0).flatten(1, -2), 4 * counts.flatten(0, -2).sum(0)
    loops = torch.zeros_like(success)
    loops[~success] = goes_round(episodes.cells[:, ~success])
    found = dict(success=success, optimal=success & (walked == shortest), loops=loops)
    found["spl"] = success * shortest / torch.maximum(walked, shortest)  # Anderson et al. 2018
    found["q_error"] = wrong.abs().sum((0, 1)) / number
    found["q_bias"] = wrong.sum((0, 1)) / number
    return {name: values.float() for name, values in found.items()}


def goes_round(cells):
    """Whether a walk (T + 1, B) ends in a round of at most T / 2 steps, walked twice over: (B,)."""
    t = len(cells) - 1
    caught = torch.zeros_like(cells[0], dtype=torch.bool)
    for period in range(1, t // 2 + 1):
        caught |= (cells[t - period :] == cells[t - 2 * period : t - period + 1]).all(0)
    return caught


def row(settings, record, learning_rate, scores, means, wrong_views) -> dict:
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
        wrong_views=wrong_views,
    )


def joined(parts) -> dict[str, torch.Tensor]:
    """The metrics of all parts of a set of mazes."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


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


def steps_away(q, settings):
    """How far from the goal the actions seem to lead; an advantage: how many steps they lose."""
    if settings["UNIT"] == "advantage":
        return -q
    return steps_of_q(q, settings["GAMMA"], settings["STEP_REWARD"], settings["GOAL_REWARD"])


def steps_of_q(q, gamma=1.0, step=-1.0, goal=0.0) -> torch.Tensor:
    """The d(s') for which `maze.optimal_q` gives q; inf where none is large enough."""
    if gamma == 1:
        return (q - goal) / step - 1
    end = step / (1 - gamma)  # what walking on for ever would earn
    return ((q - end) / (goal - gamma * end)).clamp(min=0).log() / torch.tensor(gamma).log()


def thinker_of(network):
    """The `Thinker` in a network, or None."""
    return network if isinstance(network, model.Thinker) else getattr(network, "thinker", None)


def wrong_views(network):
    """How many views the agent answers wrongly; None for an agent that does not think."""
    thinker = thinker_of(network)
    if thinker is None:
        return None
    return int(model.wrong_views(thinker).sum())
