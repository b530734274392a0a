"""Can the reward be farmed? A bonus for moving, for new cells, and for coming nearer."""

import torch

import main
import maze
import model
from panels import COLOURS, Table, arrived, axes_of, band, constants, half_at, label, some_mazes

QUESTION = "Can the reward be farmed?"
PREDICTION = "dashed: walking to and fro beats the goal if bonus > (1 − γ)/γ, at any distance"
REWARD = "THINK=False MODEL=cnn CREDIT=step UNIT=q STEP_REWARD=0 GOAL_REWARD=1 GAMMA=0.9"
GAMMAS = 0.7, 0.9  # nearer to 1 so few batches don't settle the largest bonuses of SHAPING
BONUSES = (0, *(2.0 ** (k / 2) for k in range(-14, 7)))
GRID, SHARED, STEPS = 8, 8, 20  # a batch: 8 episodes of 20 steps in each maze
KINDS = {"every move": COLOURS[1], "NOVELTY": COLOURS[2], "SHAPING": COLOURS[0]}


def threshold(gamma):
    """The bonus for every move above which no one goes to the goal, where 1 waits.

    d moves to the goal earn the bonus d times, discounted, and then gamma^(d - 1); walking on for
    ever, in its place, earns gamma^d bonus / (1 - gamma) more. d cancels.
    """
    return (1 - gamma) / gamma


def bonus_of(kind, mazes, cells, gamma):
    """What the steps earn with a bonus of 1, on top of the goal's reward, which is given, too."""
    plain, _ = maze.rewards(mazes, cells, 0.0, 1.0, gamma=gamma)
    if kind == "NOVELTY":
        return maze.rewards(mazes, cells, 0.0, 1.0, novelty=1.0, gamma=gamma)[0] - plain, plain
    if kind == "SHAPING":  # the bonus is what the potential is multiplied by
        how = dict(shaping="manhattan", gamma=gamma)
        return maze.rewards(mazes, cells, 0.0, 1.0, **how)[0] - plain, plain
    return ((cells[1:] != cells[:-1]) & (cells[:-1] != mazes.goal)).float(), plain


def success(kind, gamma, seed, n, batches, bonuses=BONUSES):
    """Of tables, one for each of n mazes and each bonus: (bonuses,).

    They learn from episodes from greedy to random that start anywhere; tested greedily.
    """
    few, distance = some_mazes(n, GRID, seed)
    lanes = torch.arange(n).repeat(len(bonuses))
    mazes, bonus = few.select(lanes), torch.tensor(bonuses).repeat_interleave(n).repeat(SHARED)
    generator = torch.Generator().manual_seed(seed)
    table = Table(torch.zeros(4, GRID, GRID, len(lanes)))
    many = mazes.select(torch.arange(len(lanes)).repeat(SHARED))
    epsilon = torch.linspace(0, 1, SHARED).repeat_interleave(len(lanes))
    away = (distance > 0)[..., lanes].repeat(1, 1, SHARED)
    for batch in range(batches):
        now = many._replace(start=maze.choose(away, generator))
        episodes, _ = main.rollout(table, now, STEPS, epsilon, generator)
        extra, plain = bonus_of(kind, now, episodes.cells, gamma)
        episodes = episodes._replace(reward=plain + bonus * extra)
        td_target, counts = model.td_targets(table, table, episodes, gamma)
        table.learn(episodes, td_target, counts, 1.0 if batch < batches / 2 else 0.3)
    return arrived(table, mazes, GRID * GRID).view(len(bonuses), n).mean(1)


def measure(fast, seeds):
    n, batches = (12, 200) if fast else (16, 300)
    bonuses = BONUSES[::3] if fast else BONUSES
    found = {}
    with constants(REWARD):
        for gamma in GAMMAS[:1] if fast else GAMMAS:
            for kind in KINDS:
                runs = [success(kind, gamma, seed, n, batches, bonuses) for seed in range(seeds)]
                found[gamma, kind] = torch.stack(runs)
    return dict(found=found, bonuses=bonuses)


def checks(data):
    x = data["bonuses"][1:]
    rows = [(f"γ = {gamma}, a bonus for every move: half of the agents farm from",
             threshold(gamma), half_at(x, found.mean(0)[1:]))
            for (gamma, kind), found in data["found"].items() if kind == "every move"]  # fmt: skip
    least = {gamma: data["found"][gamma, "SHAPING"].min().item() for gamma, _ in data["found"]}
    return rows + [(f"γ = {gamma}, SHAPING of any size: least success", 1, success)
                   for gamma, success in least.items()]  # fmt: skip


def draw(figure, data):
    gammas = sorted({gamma for gamma, _ in data["found"]})
    for axes, gamma in zip(axes_of(figure, len(gammas), sharey=True, squeeze=False)[0], gammas):
        axes.axvline(threshold(gamma), color="black", ls=(0, (4, 2)), lw=1.2)
        for kind, colour in KINDS.items():
            runs = data["found"][gamma, kind][:, 1:]
            band(axes, data["bonuses"][1:], runs, colour, lw=2)
        axes.set(xscale="log", xlabel="bonus (the goal pays 1)", title=f"γ = {gamma}")
        axes.set(ylim=(-0.04, 1.12))
    first = figure.axes[0]
    first.set_ylabel("success")
    label(first, 0.95 * threshold(gammas[0]), 0.12, "predicted", "black", ha="right")
    label(first, 0.05, 1.06, "SHAPING (× bonus)", KINDS["SHAPING"])
    label(first, 0.012, 0.5, "for every\nmove", KINDS["every move"])
    label(first, 1, 0.6, "NOVELTY:\nonce a cell", KINDS["NOVELTY"])


def sentence(data):
    return (
        "A bonus that can be had again is farmed once it is worth (1 − γ)/γ goals. "
        "Shaping by a potential cancels on the way back: no size of it harms."
    )
