"""How often to sync? The plain CNN, learning by one-step targets from the same random walks."""

import copy

import torch

import main
from panels import COLOURS, Table, axes_of, band, constants, dashed, label, mean_by, some_mazes
from support.agents import build
from support.learning import Adam, Learner

QUESTION = "How often to sync the target network?"
PREDICTION = "dashed: a cell costs a sync and the τ updates of fitting it: 1/(period + τ)"
DQN = "THINK=False MODEL=cnn GRID=8 CREDIT=step UNIT=q STEP_REWARD=0 GOAL_REWARD=1 GAMMA=0.9"
DQN += " UPDATES=1 LOOKS=16"
PERIODS, FREE = (1, 3, 10, 100, 1000), (1, 10, 100)
MISSES = (
    "The first prediction, one cell a sync, missed: a network has to fit each cell, too. What that "
    "takes was added after that had been seen, as measured with other seeds. "
    "A sync after every update or every third is too often: the network is still off when its own "
    "answers become the targets. So the front comes and goes, and without limits Q blows up."
)
TIMED, FAR = 10, 21


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
            lanes = torch.randint(1024, (32,), generator=generator)
            main.learn(learner, walks.select(lanes), 0.0)
            if update % every == 0:
                found.append(front(online, *test))
    return torch.tensor(found).T


def predicted(updates, period, first, fitting):
    """The front after so many updates: the first cell is there after `first` of them; then each
    cell waits for a sync, and is fitted in `fitting` updates.
    """
    return 0 if updates < first else 1 + int((updates - first) / (period + fitting))


def timed(fronts, every, period):
    """(first, fitting) of a course with this period, by its first and its last point."""
    first = int((fronts < 1).long().cumprod(0).sum())
    left = (len(fronts) - 1 - first) * every
    return every * first, max(0.0, left / max(1.0, float(fronts[-1]) - 1) - period)


def measure(fast, seeds):
    updates, every = (150, 10) if fast else (600, 20)
    some = range(1 if fast else 3)
    data = dict(every=every, free={}, found={})
    # How long do the first cell and another one take to fit? With one period, and other seeds.
    alone = torch.stack([course(TIMED, updates, every, 500 + seed) for seed in some])
    data["times"] = timed(alone[:, 0].mean(0), every, TIMED)
    for period in PERIODS:
        runs = [course(period, updates, every, seed) for seed in some]
        data["found"][period] = torch.stack(runs)
    for period in FREE:
        runs = [course(period, updates // 3, every // 3, seed, False) for seed in some]
        data["free"][period] = torch.stack(runs)
    return data


def checks(data):
    rows = []
    for period, runs in data["found"].items():
        # As far as the front is in the mazes that it is tested in.
        fronts = runs[:, 0].mean(0)
        n = max(1, int((fronts < FAR - 2).long().cumprod(0).sum()) - 1)
        updates = n * data["every"]
        what = f"a sync in {period}: cells after {updates} updates"
        rows.append((what, predicted(updates, period, *data["times"]), float(fronts[n])))
        first = min(FAR - 1, updates / period)
        rows.append((f"{what}, first prediction, one a sync", first, float(fronts[n])))
    return rows


def draw(figure, data):
    left, right = axes_of(figure, 2, room=dict(wspace=0.45))
    every = data["every"]
    for (period, runs), colour in zip(data["found"].items(), COLOURS):
        x = torch.arange(runs.shape[2]) * every
        left.plot(x, runs[:, 0].mean(0), color=colour, lw=1 if period == 1 else 2)
        y = [min(FAR - 1, predicted(updates, period, *data["times"])) for updates in x.tolist()]
        dashed(left, x, y, colour)
        end = 3.5 * PERIODS[::-1].index(period)  # so that the labels don't overlap
        label(left, x[-1] * 1.02, end + 0.5, f"{period}", colour)
    for period, runs in data["free"].items():
        x = torch.arange(runs.shape[2]) * (every // 3)
        colour = COLOURS[PERIODS.index(period)]
        band(right, x, runs[:, 1].clamp(min=0.01), colour, lw=2)
        label(right, x[-1] * 1.01, runs[:, 1, -1].mean(), f"{period}", colour)
    right.axhline(1, color="black", ls=(0, (4, 2)), lw=1.1)
    right.set(yscale="log", xlabel="updates", title="largest Q, without limits")
    left.set(xlabel="updates", title="cells that know; a sync in ...", ylim=(-0.5, FAR + 1))


def sentence(data):
    return (
        "Rare syncs hold credit back: one cell each. A sync after every update chases its own "
        "errors, and Q blows up. Sync when it has learned what the last one said."
    )
