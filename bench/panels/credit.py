"""How fast does credit travel? A corridor, a table, and the program's own targets."""

import math

import torch

import main
import maze
import model
from panels import COLOURS, Table, axes_of, band, constants, dashed, label

QUESTION = "How fast does credit travel?"
PREDICTION = "dashed: P(Binomial(d − 1, 1 − λ) < syncs) > ½, so 1/(1 − λ) cells a sync"
CELLS, EPSILON = 60, 0.2
REWARD = "THINK=False MODEL=cnn CREDIT=step UNIT=q STEP_REWARD=0 GOAL_REWARD=1 GAMMA=0.98"


def share(distance, syncs, lam):
    """Which share of its right value a cell has after so many syncs, counted from the goal.

    The return of a step is (1 - lam) V(s') + lam G(s'): news of the goal comes from the next cell's
    V, which is a sync old, or from its return, which is new. So it spends a sync with chance
    1 - lam on each step of its way, and one on the last: it is there with the chance that
    Binomial(d - 1, 1 - lam) < syncs.
    """
    n, p = distance - 1, 1 - lam
    return sum(math.comb(n, k) * p**k * lam ** (n - k) for k in range(min(syncs, n + 1)))


def front(syncs, lam):
    """The farthest cell that has over half of its right value."""
    half = (d for d in range(1, CELLS) if share(d, syncs, lam) <= 0.5)
    return 0 if syncs == 0 else next(half, CELLS) - 1


def corridor(n=1):
    """n corridors: the goal at the left, the start at the right."""
    walls = torch.zeros(1, CELLS, n, dtype=torch.bool)
    return maze.Mazes(walls, torch.zeros(n).long(), torch.full((n,), CELLS - 1))


def walks(n, epsilon, generator):
    """n episodes that go to the left, but for random actions with chance epsilon."""
    mazes, shape = corridor(n), (int(CELLS / (1 - epsilon) ** 3), n)
    dice = torch.rand(shape, generator=generator) < epsilon
    actions = torch.where(dice, torch.randint(4, shape, generator=generator), 2)
    cells = maze.walk(maze.move_table(mazes), mazes.start, actions.int())
    return main.with_rewards(mazes, cells, actions, torch.zeros(1, *cells.shape))


def measured_front(table):
    right = main.GAMMA ** torch.arange(CELLS - 1)  # of a cell d: GAMMA^(d - 1)
    half = table.values.amax(0)[0, 1:, 0] > right / 2
    return int(half.long().cumprod(0).sum())


def by_syncs(lam, epsilon, syncs, seed):
    """The front after 0, 1, ... syncs; every return is learned at once."""
    table = Table(torch.zeros(4, 1, CELLS, 1))
    episodes = walks(256 if epsilon else 1, epsilon, torch.Generator().manual_seed(seed))
    fronts = [0]
    for _ in range(syncs):
        table.learn(episodes, *model.td_targets(table, table, episodes, main.GAMMA, "lambda", lam))
        fronts.append(measured_front(table))
    return torch.tensor(fronts)


def replayed(order, passes, seed):
    """The front after 0, 1, ... passes over the steps, one by one, without a target network."""
    table = Table(torch.zeros(4, 1, CELLS, 1))
    generator = torch.Generator().manual_seed(seed)
    episodes, fronts = walks(1, 0, generator), [0]
    steps = [episodes._replace(cells=episodes.cells[t : t + 2], actions=episodes.actions[t : t + 1],
                               reward=episodes.reward[t : t + 1],
                               potential=episodes.potential[t : t + 2])
             for t in range(CELLS - 1)]  # fmt: skip
    for _ in range(passes):
        places = range(CELLS - 1)
        if order == "random":
            places = torch.randperm(CELLS - 1, generator=generator).tolist()
        for t in reversed(places) if order == "backwards" else places:
            table.learn(steps[t], *model.td_targets(table, table, steps[t], main.GAMMA))
        fronts.append(measured_front(table))
    return torch.tensor(fronts)


WAYS = {  # lambda, epsilon
    "λ = 0": (0.0, 0.0),
    "λ = 0.5": (0.5, 0.0),
    "λ = 0.9": (0.9, 0.0),
    "λ = 1": (1.0, 0.0),
    "λ = 0.9, a fifth at random": (0.9, EPSILON),
}
ORDERS = {"forwards": 1.0, "at random": math.e - 1, "backwards": CELLS - 1}  # cells a pass


def traced(lam, epsilon):
    """How far lambda reaches when the trace is cut at every action that is not greedy."""
    return lam * (1 - epsilon * 3 / 4)


def measure(fast, seeds):
    syncs = 50
    with constants(REWARD):
        found = {name: torch.stack([by_syncs(*way, syncs, seed) for seed in range(seeds)])
                 for name, way in WAYS.items()}  # fmt: skip
        orders = {name: torch.stack([replayed(name.split()[-1], syncs, s) for s in range(seeds)])
                  for name in ORDERS}  # fmt: skip
    predicted = {name: torch.tensor([front(n, traced(*way)) for n in range(syncs + 1)])
                 for name, way in WAYS.items()}  # fmt: skip
    return dict(found=found, orders=orders, predicted=predicted)


def speed(fronts):
    """Cells a sync, in the first three quarters of the corridor."""
    n = int((fronts <= CELLS * 3 / 4).sum()) - 1
    return float(fronts[max(1, n)]) / max(1, n)


def checks(data):
    rows = [(f"{name}: cells a sync", speed(data["predicted"][name]), speed(runs.float().mean(0)))
            for name, runs in data["found"].items()]  # fmt: skip
    return rows + [(f"replayed {name}: cells a pass", ORDERS[name], speed(runs.float().mean(0)))
                   for name, runs in data["orders"].items()]  # fmt: skip


def draw(figure, data):
    left, right = axes_of(figure, 2, sharey=True)
    x = torch.arange(len(data["predicted"]["λ = 0"]))
    for (name, runs), colour in zip(data["found"].items(), COLOURS):
        band(left, x, runs.float(), colour, lw=2.5)
        dashed(left, x, data["predicted"][name], "black")
    for (name, runs), colour in zip(data["orders"].items(), COLOURS):
        band(right, x, runs.float(), colour, lw=2.5)
        dashed(right, x, (ORDERS[name] * x).clamp(max=CELLS - 1), "black")
    left.set(xlabel="target syncs", ylabel="cells that know of the goal", ylim=(-2, 70))
    right.set(xlabel="passes, no target network", ylim=(-2, 70))
    for name, place, colour in zip(WAYS, [(30, 24), (20, 33), (6.5, 50), (1, 64.5)], COLOURS):
        label(left, *place, name, colour)
    label(left, 15.5, 64.5, "λ = 0.9, a fifth of all\nactions at random", COLOURS[4])
    label(right, 30, 24, "replayed\nforwards", COLOURS[0])
    label(right, 1, 64.5, "backwards", COLOURS[2])
    label(right, 21, 50, "at random", COLOURS[1])


def sentence(data):
    return (
        "One-step targets carry news one cell a sync, λ carries it 1/(1 − λ) cells; "
        "every action that is not greedy cuts the trace."
    )
