"""How often to sync? The plain CNN, learning by one-step targets from the same random walks."""

import copy

import torch

import main
import maze
from panels import COLOURS, Table, band, constants, dashed, label, mean_by, some_mazes
from support.adam import Adam
from support.agents import build
from support.run import Learner

QUESTION = "How often to sync the target network?"
PREDICTION = "dashed: one cell a sync (panel 2)"
DQN = "THINK=False MODEL=cnn GRID=8 CREDIT=step UNIT=q STEP_REWARD=0 GOAL_REWARD=1 GAMMA=0.9"
DQN += " UPDATES=1 LOOKS=16"
PERIODS, FREE = (1, 3, 10, 100, 1000), (1, 10, 100)
FAR = 21


def rarely(network, period):
    """A target network that is copied once in `period` times that main.learn asks for it."""
    asked, copy_now = iter(range(10**9)), network.load_state_dict

    def load_state_dict(state):
        if next(asked) % period == 0:
            copy_now(state)

    network.load_state_dict = load_state_dict
    return network


@torch.no_grad()
def front(agent, mazes, distance):
    """(the farthest distance up to which V is over half of the right one on average, largest Q)."""
    q = agent.begin(mazes).q()
    right = main.GAMMA ** (distance - 1.0)
    share, _ = mean_by(torch.where(mazes.walls, -1, distance).flatten(),
                       (q.amax(0) / right).flatten(), FAR)  # fmt: skip
    return int((share[1:] > 0.5).long().cumprod(0).sum()), float(q[:, distance > 0].max())


def course(period, updates, every, seed, limited=True):
    """(front, largest Q) before and after each `every` updates: (2, points)."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    with constants(DQN, f"SEED={seed}"):
        online = build(main.config()).eval()
        if not limited:
            online.limits = -torch.inf, torch.inf
        target = rarely(copy.deepcopy(online), period)
        learner = Learner(online, target, Adam(online.parameters(), main.LR, 1.0), None, generator)
        mazes, _ = some_mazes(1024, main.GRID, seed)
        walker = Table(torch.zeros(4, main.GRID, main.GRID, 1))
        walks, _ = main.rollout(walker, mazes, 100, torch.ones(1024), generator)
        walks = walks._replace(seen=torch.zeros(1, *walks.cells.shape))
        test = some_mazes(128, main.GRID, 1000 + seed)
        found = [front(online, *test)]
        for update in range(1, updates + 1):
            lanes = torch.randint(1024, (64,), generator=generator)
            main.learn(learner, walks.select(lanes), 0.0)
            if update % every == 0:
                found.append(front(online, *test))
    return torch.tensor(found).T


def measure(fast, seeds):
    updates, every = (150, 10) if fast else (900, 30)
    some = range(1 if fast else 3)
    data = dict(every=every, free={}, found={})
    for period in PERIODS:
        runs = [course(period, updates, every, seed) for seed in some]
        data["found"][period] = torch.stack(runs)
    for period in FREE:
        runs = [course(period, updates // 3, every // 3, seed, False) for seed in some]
        data["free"][period] = torch.stack(runs)
    return data


def slope(fronts, every):
    """Cells an update, by the last point before the front leaves the mazes that it is tested in."""
    n = int((fronts < FAR - 1).long().cumprod(0).sum()) - 1
    return float(fronts[n]) / max(1, n * every)


def checks(data):
    rows = []
    for period, runs in data["found"].items():
        speed = slope(runs[:, 0].mean(0), data["every"]) * 1000
        rows.append((f"a sync in {period}: cells in 1,000 updates", 1000 / period, speed))
    return rows


def draw(figure, data):
    left, right = figure.subplots(1, 2)
    every = data["every"]
    for (period, runs), colour in zip(data["found"].items(), COLOURS):
        x = torch.arange(runs.shape[2]) * every
        band(left, x, runs[:, 0], colour, lw=2)
        dashed(left, x, (x / period).clamp(max=FAR - 1), colour)
    for period, runs in data["free"].items():
        x = torch.arange(runs.shape[2]) * (every // 3)
        colour = COLOURS[PERIODS.index(period)]
        band(right, x, runs[:, 1].clamp(min=0.01), colour, lw=2)
        label(right, x[-1], runs[:, 1, -1].mean(), f"{period}", colour, ha="left")
    right.axhline(1, color="black", ls=(0, (4, 2)), lw=1.1)
    right.set(yscale="log", xlabel="updates", title="largest Q, unlimited (right: 1)")
    left.set(xlabel="updates", title="cells that know of the goal", ylim=(-0.5, FAR + 2))


def sentence(data):
    return (
        "Rare syncs hold credit back: one cell each. A sync after every update chases its own\n"
        "errors, and they grow without end. Sync once it has learned what the last one said."
    )
