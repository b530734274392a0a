"""Where the time goes, and what the usual way would take.

    python bench/speed.py [SECONDS=60] [KEY=VALUE ...]

KEY=VALUE: constants of main.py, as BSZ=4096; for agents that see the whole maze.

1. Each stage of a training batch at the curriculum's last level, with a trained network: median
   time, mazes and steps a second, share of a batch, and how many times longer it takes than its
   floor. The floor of thinking and of an update: the fewest looks that any order could take, each
   cell one, times the FLOPs of a look, at the rate of a matrix product measured in the same run.
   That of the rest: the bytes that a stage can't help moving, at the copy rate measured in the same
   run.
2. The usual way, with a CNN, the same mazes, curriculum and machine: the agent drawn into the
   image, a forward pass a step, a replay memory of images, one-step targets, an update a step, for
   SECONDS. Beside it, a run of `python main.py`.
3. Growth: time a maze of thinking and of an update, as GRID and BSZ grow."""

import copy
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

sys.path[:0] = [
    os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."),
    os.path.dirname(os.path.abspath(__file__)),
]
from ablations import DilatedCNN

import main
import maze
import model
from maze import Mazes
from support.adam import Adam
from support.checkpoint import load_checkpoint
from support.metrics import average
from support.settings import check, override


def timed(run, repeats=7):
    """Median seconds of run(), after one run to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def copy_rate(device):
    """Bytes a second, read and written, of copying 64 MiB."""
    source = torch.ones(2**24, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / timed(lambda: target.copy_(source))


def product_rate(device, n=512):
    """FLOPs a second of a matrix product."""
    a, b = torch.ones(n, n, device=device), torch.ones(n, n, device=device)
    return 2 * n**3 / timed(lambda: a @ b, 20)


def flops_of_look(thinker):
    """Of one cell."""
    from torch.utils.flop_counter import FlopCounterMode

    side, n = 2 * thinker.core.radius + 1, 64
    x = torch.ones(thinker.kinds, side, side, n, device=next(thinker.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        thinker.core(x)
    return counter.get_total_flops() / n


def agent(device):
    """The network of a default run: an untrained one thinks differently."""
    with tempfile.TemporaryDirectory() as folder:
        train(folder, *[f"{name}={getattr(main, name)}" for name in ("GRID", "MODEL", "WIDTH")])
        return load_checkpoint(os.path.join(folder, "checkpoint.pt"), device)[0]


def train(folder, *arguments):
    subprocess.run(
        [sys.executable, main.__file__, f"OUT_DIR={folder}", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def targets(network, episodes, seen):
    """(targets, which steps count) of these episodes, by the constants."""
    return model.td_targets(network, network, seen, episodes, main.GAMMA, main.LAMBDA, main.DOUBLE)


def minibatch(network, episodes, seen):
    """What `main.update` takes, to learn from these episodes at once."""
    td_target, counts = targets(network, episodes, seen)
    ((_, steps),) = main.minibatches(counts, 1)
    by_step = episodes.actions, td_target, torch.ones_like(td_target)
    return seen, steps, *(x.flatten()[steps] for x in by_step)


def stages(network, device, copies, products):
    """{stage: (seconds, mazes, steps, times a training batch, seconds at the floor)}."""
    b, t, cells, updates = main.BSZ, main.MAX_EP_LENGTH, main.GRID**2, main.UPDATES
    generator = torch.Generator(device).manual_seed(0)
    cache = maze.make_mazes(main.MAZE_CACHE_SIZE, main.GRID, generator, device)
    epsilon = main.EPSILON * torch.linspace(0, 1, b, device=device) ** main.EPSILON_SHAPE
    mazes = main.draw(cache, b, 1.0, generator)
    distance = maze.distances(mazes.walls, mazes.goal)
    thoughts = network.think(mazes)
    table, _ = maze.move_table(mazes, thoughts.q)
    episodes, _ = main.rollout(network, mazes, t, epsilon, generator)
    n, seen = b // updates, thoughts.along(episodes.cells)
    batch = minibatch(network, episodes.select(slice(0, n)), [x[..., :n] for x in seen])
    learner = copy.deepcopy(network)
    optimizer = Adam(learner.parameters(), 1e-9)
    rooms = ((main.GRID + 1) // 2) ** 2
    wave, farthest = (
        5 * 3 / 8,
        main.MAX_START_DISTANCE,
    )  # five operations on bits, with three operands
    look = flops_of_look(network) / products
    to_think = int((~mazes.walls).sum() - b)
    to_learn = len(batch[1])
    moved = {  # bytes: each input read once and each output written once, for every pass needed
        "generate": b * (2 * rooms * 13 + cells),
        "draw": b * cells * (7 + wave * farthest),
        "distances": b * cells * (5 + wave * int(distance.max())),
        "move table": b * cells * 4 * 9,
        "roll out": b * t * 4 * 4,
        "patches along": b * t * 4 * 2 * network.patch_size,
        "targets": b * t * 4 * (network.patch_size + 6),
    }
    floor = {name: size / copies for name, size in moved.items()}
    floor |= {
        "think": to_think * look,
        "update": to_learn * look * 3,
    }  # a backward pass is two forward
    floor["evaluate"] = floor["think"] + floor["roll out"] + floor["move table"]
    runs = {
        "generate": (lambda: maze.make_mazes(b, main.GRID, generator, device), b, 0, 0),
        "draw": (lambda: main.draw(cache, b, 1.0, generator), b, 0, 1),
        "distances": (lambda: maze.distances(mazes.walls, mazes.goal), b, 0, 0),
        "think": (lambda: network.think(mazes), b, 0, main.TARGET_SYNCS),
        "move table": (lambda: maze.move_table(mazes, thoughts.q), b, 0, 1),
        "roll out": (
            lambda: maze.walk(
                table, mazes.start, main.choose_actions(t, mazes, epsilon, generator)
            ),
            b,
            b * t,
            1,
        ),
        "patches along": (lambda: thoughts.along(episodes.cells), b, b * t, 1),
        "targets": (lambda: targets(network, episodes, seen), b, b * t, main.TARGET_SYNCS),
        "update": (lambda: main.update(learner, optimizer, *batch), n, n * t, updates),
        "evaluate": (
            lambda: main.evaluate(network, mazes, distance),
            b,
            b * t,
            2 * main.EVAL_SAMPLE / b / main.EVAL_EVERY,
        ),
    }
    return {
        name: (timed(run), mazes, steps, times, floor[name])
        for name, (run, mazes, steps, times) in runs.items()
    }


# --------------------------------------------------------------------------------------------------
# The usual way


def usual_way(device, seconds, held_out, gamma=0.98):
    """[(seconds, env steps, episodes, success)] of a textbook DQN with a CNN that looks once."""
    b, cells, capacity, few = main.BSZ, main.GRID**2, 100_000, main.BSZ // main.UPDATES
    torch.manual_seed(0)
    generator = torch.Generator(device).manual_seed(0)
    cache = maze.make_mazes(main.MAZE_CACHE_SIZE, main.GRID, generator, device)
    online = DilatedCNN().to(device)
    target = copy.deepcopy(online)
    optimizer = Adam(online.parameters(), main.LR)
    lane = torch.arange(b, device=device)

    def image(mazes, agent):
        """(3, cells, B) uint8: walls, goal, agent."""
        planes = torch.zeros(3, cells, len(agent), dtype=torch.uint8, device=device)
        planes[0] = mazes.walls.flatten(0, 1)
        planes[1].scatter_(0, mazes.goal[None], 1)
        planes[2].scatter_(0, agent[None], 1)
        return planes

    def q_of(network, images):
        """Q of the four actions where the agent is drawn, by a forward pass: (4, B)."""
        walls, goal, agent = (
            images[0].bool().view(main.GRID, main.GRID, -1),
            images[1].argmax(0),
            images[2].argmax(0),
        )
        return (
            network(Mazes(walls, goal, agent)).flatten(1, 2).gather(1, agent.expand(4, 1, -1))[:, 0]
        )

    memory = torch.empty(2, 3, cells, capacity, dtype=torch.uint8, device=device)
    taken, done = (torch.empty(capacity, dtype=torch.int64, device=device) for _ in range(2))
    stored = place = steps = episodes = 0
    level, won, ended, rows, began, asked = 0.0, 0, 0, [], time.perf_counter(), 0.0
    mazes = main.draw(cache, b, level, generator)
    agent, age, blocked = (
        mazes.start.clone(),
        torch.zeros_like(mazes.start),
        maze.neighbours(mazes.walls, True).flatten(1, 2),
    )
    offset = torch.tensor([-main.GRID, main.GRID, -1, 1], device=device)
    while (spent := time.perf_counter() - began) < seconds:
        before = image(mazes, agent)
        with torch.no_grad():
            action = q_of(online, before).argmax(0)
        epsilon = max(0.05, 1 - 2 * spent / seconds)
        dice = torch.rand(b, generator=generator, device=device) < epsilon
        action = torch.where(
            dice, torch.randint(4, (b,), generator=generator, device=device), action
        )
        agent = torch.where(blocked[action, agent, lane], agent, agent + offset[action])
        age += 1
        at_goal, late = agent == mazes.goal, age >= main.MAX_EP_LENGTH
        index = (place + lane) % capacity
        memory[0][..., index], memory[1][..., index] = before, image(mazes, agent)
        taken[index], done[index] = action, at_goal.long()
        place, stored, steps = (place + b) % capacity, min(stored + b, capacity), steps + b
        over = (at_goal | late).nonzero()[:, 0]
        if len(over):  # new mazes for the episodes that ended
            won, ended, episodes = won + int(at_goal.sum()), ended + len(over), episodes + len(over)
            fresh = main.draw(cache, b, level, generator).select(over)
            mazes.walls[..., over], mazes.goal[over], agent[over], age[over] = (
                fresh.walls,
                fresh.goal,
                fresh.start,
                0,
            )
            blocked = maze.neighbours(mazes.walls, True).flatten(1, 2)
            if ended >= b:
                level, won, ended = main.next_level(level, 0, won / ended), 0, 0
        index = torch.randint(stored, (few,), generator=generator, device=device)
        with torch.no_grad():
            best = q_of(online, memory[1][..., index]).argmax(0)
            ahead = q_of(target, memory[1][..., index]).gather(0, best[None])[0]
            aim = done[index] + gamma * (1 - done[index]) * ahead.clamp(0, 1)
        error = q_of(online, memory[0][..., index]).gather(0, taken[index][None])[0] - aim
        loss = F.huber_loss(error, torch.zeros_like(error), delta=main.HUBER) / main.HUBER
        gradient = torch.cat(
            [part.flatten() for part in torch.autograd.grad(loss, list(online.parameters()))]
        )
        optimizer.step(gradient * (main.GRAD_CLIP / (gradient.norm() + 1e-6)).clamp(max=1))
        if steps // b % 100 == 0:
            target.load_state_dict(online.state_dict())
        if spent - asked > seconds / 10:
            asked = spent
            rows.append(
                (spent, steps, episodes, average(main.evaluate(online, *held_out))["success"])
            )
    return rows


# --------------------------------------------------------------------------------------------------


def growth(network, device):
    """Microseconds a maze, of planning and of an update, for growing GRID and BSZ."""
    print(
        "\n| GRID | BSZ | open cells | longest way | looks a cell | think, us a maze | ns a cell "
        "| update, us a maze |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    sizes = [(8, 1024), (16, 1024), (32, 256), (64, 64), (128, 16)]
    for grid, b in sizes + [(16, n) for n in (64, 256, 4096, 16384, 65536)]:
        generator = torch.Generator(device).manual_seed(0)
        packed = maze.make_mazes(b, grid, generator, device)
        mazes = maze.draw(packed, grid, 1.0, grid * grid, "random", generator)
        longest = int(maze.distances(mazes.walls, mazes.goal).max())
        is_open = int((~mazes.walls).sum()) / b
        looks = count_looks(network, mazes) / b / is_open
        thinking = timed(lambda: network.think(mazes), 3) / b
        episodes, thoughts = main.rollout(network, mazes, main.MAX_EP_LENGTH)
        batch = minibatch(network, episodes, thoughts.along(episodes.cells))
        learner = copy.deepcopy(network)
        optimizer = Adam(learner.parameters(), 1e-9)
        updating = timed(lambda: main.update(learner, optimizer, *batch), 3) / b
        print(
            f"| {grid} | {b:,} | {is_open:,.0f} | {longest} | {looks:.1f} | {thinking * 1e6:,.1f} "
            f"| {thinking * 1e9 / is_open:,.0f} | {updating * 1e6:,.1f} |",
            flush=True,
        )


def count_looks(network, mazes):
    """How many times a cell looks, in all, while the network thinks."""
    looks, look = [], model.Thoughts.look
    model.Thoughts.look = lambda self, at, *rest: (looks.append(len(at)), look(self, at, *rest))[1]
    network.think(mazes)
    model.Thoughts.look = look
    return sum(looks)


def run(arguments):
    seconds = [float(a.partition("=")[2]) for a in arguments if a.startswith("SECONDS=")]
    seconds = seconds[0] if seconds else 60.0
    arguments = [a for a in arguments if not a.startswith("SECONDS=")]
    vars(main).update(override(main.config(), main.BY_AGENT, arguments))
    check(main.config())
    device = main.pick_device()
    copies, products, network = copy_rate(device), product_rate(device), agent(device)
    print(
        f"torch {torch.__version__} on {device}, {torch.get_num_threads()} threads; copies "
        f"{copies / 1e9:.1f} GB/s, read and written; matrix products {products / 1e9:.0f} GFLOP/s; "
        f"a look {flops_of_look(network):,.0f} FLOPs\n"
    )
    table = stages(network, device, copies, products)
    batch = sum(seconds * times for seconds, _, _, times, _ in table.values())
    print(
        "| stage | ms | mazes/s | million steps/s | share of a batch | x floor |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for name, (spent, mazes, steps, times, floor) in table.items():
        print(
            f"| {name} | {spent * 1e3:.2f} | {mazes / spent:,.0f} | {steps / spent / 1e6:.1f} "
            f"| {spent * times / batch:.0%} | {spent / floor:.1f} |"
        )
    print(f"\na batch of {main.BSZ}: {batch * 1e3:.0f} ms, {main.BSZ / batch:,.0f} episodes/s")
    growth(network, device)
    packed = maze.make_mazes(
        main.EVAL_SAMPLE, main.GRID, torch.Generator(device).manual_seed(1), device
    )
    print(
        f"\nthe usual way, {seconds:.0f} s:\n\n| seconds | steps/s | episodes/s | success |\n"
        "| ---: | ---: | ---: | ---: |"
    )
    for spent, steps, episodes, success in usual_way(device, seconds, main.test_set(packed)):
        print(
            f"| {spent:.0f} | {steps / spent:,.0f} | {episodes / spent:,.0f} | {success:.3f} |",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as folder:
        train(folder, *arguments)
        print(
            "\n`python main.py`, start-up included:\n\n| seconds | steps/s | episodes/s | success "
            "|\n| ---: | ---: | ---: | ---: |"
        )
        for row in csv.DictReader(open(os.path.join(folder, "metrics.csv"))):
            spent = float(row["seconds"])
            print(
                f"| {spent:.1f} | {int(row['env_steps']) / spent:,.0f} "
                f"| {int(row['episodes']) / spent:,.0f} | {float(row['success']):.3f} |"
            )


if __name__ == "__main__":
    run(sys.argv[1:])
