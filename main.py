"""A deep Q-network learns to walk mazes that it has never seen, by a shortest path.

    python main.py                      train with the constants below
    python main.py MODEL=cnn SEED=3     the same, with some of them overridden
    python main.py RESUME=True          go on with the run in OUT_DIR where it stopped
    python main.py solve FILE           walk the mazes in a file with the trained agent
"""
import time

started = time.perf_counter()

import copy
import os
import sys

import torch
import torch.nn.functional as F

import maze
import model
from maze import UserError
from support import mazefile, pictures, settings
from support.checkpoint import load_checkpoint
from support.replay import Replay
from support.report import average, report
from support.run import (RANK, WORLD, all_reduce_sum, any_process, exit_status, first_lines, keep,
                         lock, processes, profiled, resume, set_aside, show_progress,
                         stop_if_not_finite, stop_on_signal)
from support.settings import HELD_OUT_SEED
from support.window import build

# The maze
GRID = 16               # cells on a side, 5..256; an even GRID ends in a row and a column of wall
DIFFICULTY = 1.0        # share of walls kept in training, 0 (an empty hall) .. 1 (exactly one path
                        # between any two cells); evaluation always walks mazes with all walls
DIFFICULTY_MIN = dict(mlp=0.0, window=0.5)  # a training maze draws its share between these two,
                        # times the curriculum's level
GOAL = "random"         # "random": any open cell; "corner": the bottom-right room
MAX_START_DISTANCE = 100  # steps from the farthest start; over MAX_EP_LENGTH it can't be walked
MAZE_CACHE_SIZE = 16_384  # different mazes to train on
MAZE_CACHE_FILE = "mazes.npz"  # under OUT_DIR; made again when its settings differ

# The agent. Where a constant has several values, the agent picks its own: MODEL, or "window" for
# one that sees a window, or "map" for one that draws a map; "mlp" stands for all not named.
MODEL = "mlp"           # "mlp", "cnn", "attention": they learn the backup; "vin": it is built in
WIDTH = 0               # units or channels of a hidden layer; 0: the model's own
LOOKS = 0               # how often a cell looks while the network thinks; 0: until nothing changes
VISION = 0              # 0: sees the whole maze; r: the (2r + 1)^2 cells around it, through walls
COMPASS = True          # with VISION: knows how far the goal is to the north and to the east
MEMORY = "none"         # with VISION: "none"; "trail": where it has been; "gru": a recurrent state;
                        # "map": all that it has seen

# Learning
GAMMA = dict(mlp=0.5, window=0.98)  # discount a step. A network that thinks sees ratios of
                        # values: a small GAMMA costs no distance, and tells good from bad loudly
LAMBDA = dict(mlp=0.0, window=0.9)  # 0: credit moves one cell a target sync; 1: along a greedy path
LR = dict(mlp=0.01, cnn=0.005, attention=0.005, window=0.002)  # Adam's step size at the start
LR_DECAY = 0.5          # share of the run, at its end, in which the step size falls to 0
UPDATES = dict(mlp=40, cnn=80, attention=80, window=20)  # gradient steps a batch of episodes,
                        # each on BSZ / UPDATES of them
TARGET_SYNCS = dict(mlp=1, window=4)  # times a batch that the target network is copied, and
                        # thinks anew
DOUBLE = dict(mlp=False, window=True)  # double DQN: the online network picks the next action,
                        # the target network says what it is worth
HUBER = dict(mlp=0.1, vin=0.01, window=0.05)  # TD error at which the loss turns linear
GRAD_CLIP = 1.0         # greatest norm of the gradient
REPLAY = "off"          # "off": learn from the newest batch; "uniform": from the last REPLAY_SIZE
REPLAY_SIZE = 16_384    # episodes; "prioritized": from those with great TD errors more often
PRIORITY_ALPHA = 0.6    # prioritized: 0: as uniform; 1: as often as the TD error is great
PRIORITY_BETA = 0.4     # prioritized: how far weights make up for that, at first; 1 at the end

# Reward, beside the 1 for reaching the goal; for agents with a window and no map
SHAPING = "none"        # potential-based: "manhattan": of the straight distance, "oracle": the true
NOVELTY = 0.0           # for each cell that is new in this episode

# Exploration: episode i of a batch acts at random with chance
# EPSILON * (i / (BSZ - 1)) ** EPSILON_SHAPE
EPSILON = 1.0           # of the most exploring episode, 0..1
EPSILON_SHAPE = 1.5     # 1: evenly from 0 to EPSILON; higher: more episodes are nearly greedy

# Curriculum: a level from 0 to 1 raises walls (to DIFFICULTY) and start distances together
CURRICULUM = "adaptive"  # "adaptive": by success; "linear": by time; "off": level 1 from the start
CURRICULUM_SUCCESS = dict(mlp=0.8, window=0.7)  # adaptive: success, in the least exploring
                        # quarter of a batch, that raises the level ...
CURRICULUM_STEP = dict(mlp=0.1, window=0.05)  # ... by this much
CURRICULUM_SHARE = 0.5  # linear: share of the run after which the level is 1

# The run
NUM_EPISODES = dict(mlp=20_480, map=10_240, window=102_400)  # episodes in all, in whole batches
BSZ = 1024              # episodes side by side
MAX_EP_LENGTH = 100     # steps after which an episode is cut off; it still bootstraps
SEED = 0                # of mazes, weights and exploration; held-out mazes have their own
DEVICE = "auto"         # "auto": a CUDA GPU where there is one, else the CPU; "cuda:1", "mps"
THREADS = 1             # CPU threads, 0: torch's choice; operations as small as these lose by more
EVAL_MAZES = 10_000     # held-out mazes in the final evaluation
EVAL_SAMPLE = 256       # of them, in the evaluations on the way ...
EVAL_EVERY = dict(mlp=2, window=5)  # ... one in so many batches; each also saves the checkpoint
OUT_DIR = "out"         # for all that a run writes, but for the plot
PLOT_FILE = ""          # "": training_plot.png, if the constants are as here; else in OUT_DIR
PLOT_EVERY = 30         # seconds after which the plot is drawn anew while training runs
RESUME = False          # go on with the run that OUT_DIR holds, with the same constants
CHECKPOINT = ""         # the file that `solve` walks with; "": checkpoint.pt under OUT_DIR
PROFILE = False         # run under cProfile: prints the 30 slowest calls, saves training_stats

CONSTANTS = [name for name, value in list(globals().items())
             if name.isupper() and isinstance(value, (bool, int, float, str, dict))
             and name not in ("RANK", "WORLD", "HELD_OUT_SEED")]
BY_AGENT = {name: globals()[name] for name in CONSTANTS if isinstance(globals()[name], dict)}


def config():
    """Every constant with its present value."""
    return {name: globals()[name] for name in CONSTANTS}


globals().update(settings.of_agent(BY_AGENT, config()))
DEFAULTS = config()


# --------------------------------------------------------------------------------------------------
# Training: draw mazes -> act -> learn -> evaluate


def train(device, asked_to_stop=lambda: False):
    """Trains an agent with the constants as they stand.

    Returns the network, the run's progress with its history, and the bit-packed mazes that it
    trained on, and that it has never seen.
    """
    torch.manual_seed(SEED)
    generator = torch.Generator(device).manual_seed(SEED)
    cache, held_out = load_mazes(device)
    sample = exam(torch.cat([held_out[:, :EVAL_SAMPLE], cache[:, :EVAL_SAMPLE]], 1))

    online = build(config()).to(device)
    target = copy.deepcopy(online).to(device)
    optimizer = model.Adam(online.parameters(), LR)
    replay = None
    if REPLAY != "off":
        alpha = PRIORITY_ALPHA if REPLAY == "prioritized" else 0.0
        replay = Replay(REPLAY_SIZE, GRID, MAX_EP_LENGTH, alpha, device)
    # Shuffled, so that every update learns from all kinds of exploration.
    order = torch.randperm(BSZ, generator=generator, device=device)[RANK::WORLD]
    epsilon = EPSILON * (order / max(1, BSZ - 1)) ** EPSILON_SHAPE
    least_exploring = order < max(1, BSZ // 4)
    batches, plotted = -(-NUM_EPISODES // BSZ), time.perf_counter() - started
    run = begin(online, target, optimizer, replay, sample, generator)
    if RANK == 0:
        print(first_lines(config(), BY_AGENT, online, replay, cache, batches * BSZ), flush=True)

    for batch in range(run["batch"], batches):
        # Act. The network thinks about a maze once; each step of the episode is then a look-up.
        mazes = draw(cache, len(order), run["level"], generator)
        episodes, thoughts = rollout(online, mazes, MAX_EP_LENGTH, epsilon, generator)

        # Learn.
        optimizer.lr = LR * min(1, (1 - batch / batches) / LR_DECAY) if LR_DECAY else LR
        losses, grad_norms = learn(online, target, optimizer, replay, episodes, thoughts,
                                   batch / batches, generator)
        stop_if_not_finite(config(), losses, grad_norms, *online.parameters())

        # Raise the level, evaluate.
        away = episodes.cells != episodes.mazes.goal
        counts = [away[:-1].sum(), (~away[-1] & least_exploring).sum(), least_exploring.sum()]
        steps, arrived, tried = all_reduce_sum(torch.stack(counts)).tolist()
        level = next_level(run["level"], (batch + 1) / batches, arrived / max(1, tried))
        run.update(batch=batch + 1, env_steps=run["env_steps"] + steps, level=level)
        stopping = run["batch"] == batches or any_process(asked_to_stop(), device)
        if RANK == 0 and (batch % EVAL_EVERY == 0 or stopping):
            measure(run, online, sample, loss=losses.mean().item(), level=level,
                    grad_norm=grad_norms.mean().item(), epsilon=epsilon.mean().item(),
                    learning_rate=optimizer.lr)
            seconds = time.perf_counter() - started
            keep(in_out_dir("checkpoint.pt"), run, online, target, config(), seconds, optimizer,
                 replay, generator)
            show_progress(run, batches * BSZ, config())
            if seconds - plotted > PLOT_EVERY:
                plotted = seconds
                pictures.course(plot_file(), run, config())
        if stopping:
            break
    return online, run, cache, held_out


def load_mazes(device):
    """(training mazes, held-out mazes), both bit-packed."""
    def load():
        return maze.load_cache(in_out_dir(MAZE_CACHE_FILE), MAZE_CACHE_SIZE, GRID, SEED, device)

    cache = load() if RANK == 0 else None
    all_reduce_sum(torch.zeros(1, device=device))  # the others wait until the first has saved them
    cache = load() if RANK else cache
    return cache, maze.held_out(EVAL_MAZES, GRID, HELD_OUT_SEED, cache, device)


def begin(online, target, optimizer, replay, sample, generator):
    """The progress of a run: of a new one, or, with RESUME, of the one in OUT_DIR."""
    global started
    if RESUME:
        path = in_out_dir("checkpoint.pt")
        run, seconds = resume(path, config(), online, target, optimizer, replay, generator)
        started = time.perf_counter() - seconds
    else:
        if RANK == 0:
            print(set_aside(in_out_dir("checkpoint.pt")), end="")
        always, device = torch.ones(len(sample[0].goal)), sample[0].goal.device
        random = torch.Generator(device).manual_seed(SEED)
        walks, _ = rollout(online, sample[0], MAX_EP_LENGTH, always.to(device), random)
        random_walk = (walks.cells[-1] == sample[0].goal).float().mean().item()
        run = dict(batch=0, level=float(CURRICULUM == "off"), env_steps=0, history=[],
                   random_walk=random_walk)
    if RANK:  # every process draws its own mazes
        generator.manual_seed((SEED + RANK * 1_000_003 + run["batch"]) % HELD_OUT_SEED)
    return run


def draw(cache, n, level, generator):
    """n training mazes at the curriculum's level."""
    index = torch.randint(cache.shape[1], (n,), generator=generator, device=cache.device)
    share = torch.rand(n, generator=generator, device=cache.device)
    difficulty = level * (DIFFICULTY_MIN + share * (DIFFICULTY - DIFFICULTY_MIN))
    farthest = 1 + round(level * (MAX_START_DISTANCE - 1))
    return maze.draw(cache[:, index], GRID, difficulty, farthest, GOAL, generator)


def next_level(level, progress, success):
    """The curriculum's level after a batch. progress: the share of the run done."""
    if CURRICULUM == "linear":
        return min(1.0, progress / CURRICULUM_SHARE)
    if CURRICULUM == "adaptive" and success >= CURRICULUM_SUCCESS:
        return min(1.0, level + CURRICULUM_STEP)
    return level


# --------------------------------------------------------------------------------------------------
# Acting: network -> Q -> moves -> episodes


@torch.no_grad()
def rollout(network, mazes, steps, epsilon=None, generator=None):
    """Walks every maze for `steps` steps, greedily but for random actions with chance epsilon (B,).

    Returns the episodes, and what the network thought: its `along(cells)` is what learning needs.
    """
    choices = choose_actions(steps, mazes, epsilon, generator)
    if network.whole_maze:
        thoughts = network.think(mazes)
        table, greedy = maze.move_table(mazes, thoughts.q)
        cells = maze.walk(table, mazes.start, choices)
        choices += (choices == 4) * (model.along(greedy, cells[:-1]).int() - 4)
    else:
        thoughts = network.begin(mazes, learning=epsilon is not None)
        no_q = torch.zeros(1, device=mazes.goal.device).expand(4, *mazes.walls.shape)
        table, _ = maze.move_table(mazes, no_q)
        cells = maze.walk(table, mazes.start, choices, lambda cells: thoughts.see(cells).argmax(0))
        thoughts.see(cells[-1])
    return with_reward(mazes, cells, choices.long()), thoughts


def choose_actions(steps, mazes, epsilon, generator):
    """(steps, B) int32: a random action, 0..3, with chance epsilon (B,); else 4, the greedy one."""
    shape = steps, len(mazes.goal)
    if epsilon is None:
        return torch.full(shape, 4, dtype=torch.int32, device=mazes.goal.device)
    scale = 4 / 2 ** 16 / epsilon.clamp(min=1e-30)  # under epsilon, each of 0..3 is as likely
    dice = maze.dice(shape, generator)
    return torch.addcmul(scale * (2 ** 15 + 0.5), dice, scale).clamp_(max=4).int()


def with_reward(mazes, cells, actions):
    paid = model.pay(mazes, cells, maze.potential(mazes, SHAPING, GAMMA), GAMMA, NOVELTY)
    return model.Episodes(mazes, cells, actions, *paid)


# --------------------------------------------------------------------------------------------------
# Learning: what was seen -> targets -> TD errors (model.td_error) -> a gradient step


def learn(online, target, optimizer, replay, episodes, thoughts, progress, generator):
    """UPDATES gradient steps on these episodes, or on as many out of the replay memory.

    thoughts: what the online network thought when it walked. progress: the share of the run done.
    Returns the losses and the norms of the gradient, (2, UPDATES).
    """
    n, weight, results = len(episodes.mazes.goal), None, []
    if replay:
        replay.add(*episodes[:3])
        beta = PRIORITY_BETA + (1 - PRIORITY_BETA) * progress
        *remembered, index, weight = replay.sample(n, generator, beta)
        episodes, thoughts = with_reward(*remembered), None
    syncs = min(TARGET_SYNCS, UPDATES)
    for sync in range(syncs):
        # The target network is copied, and thinks for itself of the episodes until the next sync.
        # At the first sync it is the network that has just walked, and has thought already.
        # With double DQN it is copied one sync late: then it differs from the one that picks.
        first, last = sync * UPDATES // syncs, (sync + 1) * UPDATES // syncs
        lanes = slice(first * n // UPDATES, last * n // UPDATES)
        some = episodes.select(lanes)
        if not DOUBLE:
            target.load_state_dict(online.state_dict())
        if sync or DOUBLE or thoughts is None:
            seen = recall(target, some)
        else:
            seen = thoughts.along(some.cells, lanes)
        most = 1 + NOVELTY * MAX_EP_LENGTH
        td_target, counts = model.td_targets(online, target, seen, some, GAMMA, LAMBDA, DOUBLE, most)
        if DOUBLE:
            target.load_state_dict(online.state_dict())

        for part, steps in minibatches(counts, last - first):
            loss, grad_norm, error = update(
                online, optimizer, [x[..., part] for x in seen], steps,
                some.actions[:, part].flatten()[steps], td_target[:, part].flatten()[steps],
                None if weight is None else weight[lanes][part][steps % (part.stop - part.start)])
            results.append(torch.stack([loss, grad_norm]))
            if replay:
                errors = torch.zeros_like(td_target[:, part]).flatten().index_copy(0, steps, error)
                replay.learn(index[lanes][part], errors.view(len(td_target), -1))
    return torch.stack(results, 1)


def recall(network, episodes):
    """What there was to see along these episodes, as this network thinks of them."""
    if network.whole_maze:
        return network.think(episodes.mazes).along(episodes.cells)
    memory = network.begin(episodes.mazes, learning=True)
    for cells in episodes.cells:
        memory.see(cells)
    return memory.along(episodes.cells)


def minibatches(counts, number):
    """Splits B episodes into `number` parts: [(slice of the episodes, their steps that count)].

    counts (T, B) bool. Steps (N,) are numbered in their part: time * episodes + episode.
    """
    t, b = counts.shape
    parts = [slice(i * b // number, (i + 1) * b // number) for i in range(number)]
    masks = [counts[:, part].flatten() for part in parts]
    sizes = torch.stack([mask.sum() for mask in masks]).tolist()
    steps = torch.cat(masks).nonzero()[:, 0].split(sizes)
    return [(part, own - t * part.start) for part, own in zip(parts, steps)]


def update(online, optimizer, seen, steps, actions, td_target, weight=None):
    """One gradient step on the TD errors Q(s, a) - td_target of N `steps` among what was `seen`.

    actions, td_target, weight (N,). Returns the loss, the norm of the gradient, and the TD errors
    (N,), all on the device.
    """
    q = online.q(seen, steps)  # (4, N)
    error = q.gather(0, actions[None])[0] - td_target
    # Huber's loss over HUBER, so that its slope is at most 1.
    loss = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=HUBER)
    loss = loss if weight is None else loss * weight
    number = all_reduce_sum(torch.full((), float(len(steps)), device=steps.device))
    loss = loss.sum() / number.clamp(min=1)
    gradient = torch.autograd.grad(loss, list(online.parameters()))
    gradient = all_reduce_sum(torch.cat([part.flatten() for part in gradient]))
    grad_norm = gradient.norm()
    optimizer.step(gradient * (GRAD_CLIP / (grad_norm + 1e-6)).clamp(max=1))
    return all_reduce_sum(loss.detach()), grad_norm, error.detach()


# --------------------------------------------------------------------------------------------------
# Evaluation


def exam(packed):
    """(bit-packed mazes with all walls, a goal and a start at any distance; the distances)."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)  # the same mazes whatever the device
    mazes = maze.draw(packed.cpu(), GRID, 1.0, MAX_START_DISTANCE, GOAL, generator)
    mazes = mazes.to(packed.device)
    return mazes, maze.distances(mazes.walls, mazes.goal)


def measure(run, online, sample, **row):
    """Adds a row to the history: what is given, and how the greedy agent does in held-out and in
    training mazes."""
    scores, half = evaluate(online, *sample), min(EVAL_SAMPLE, EVAL_MAZES)
    run["history"].append(dict(
        episodes=run["batch"] * BSZ, env_steps=run["env_steps"], updates=run["batch"] * UPDATES,
        seconds=time.perf_counter() - started, **row, **average(scores, slice(half)),
        train_success=average(scores, slice(half, None))["success"]))
    run.setdefault("early", {name: value.clone() for name, value in online.state_dict().items()})


@torch.no_grad()
def evaluate(network, mazes, distance, chunk=4096, steps=None):
    """How the greedy agent does in each maze: a dictionary of float tensors (B,).

    distance (H, W, B): the exact one. steps: after which it has failed, MAX_EP_LENGTH if not given.
    """
    scores = []
    for i in range(0, len(mazes.goal), chunk):
        part, d = mazes.select(slice(i, i + chunk)), distance[..., i:i + chunk]
        episodes, thoughts = rollout(network, part, steps or MAX_EP_LENGTH)
        away = episodes.cells != part.goal
        walked, shortest, success = away[:-1].sum(0), maze.shortest(part, d), ~away[-1]
        exact = maze.optimal_q(part, d, GAMMA)
        if network.whole_maze:  # Q is compared in all open cells but the goal
            wrong, counts = thoughts.q_values() - exact, ~part.walls & (d != 0)
        else:  # or in those on its way
            wrong = model.q_along(network, episodes, thoughts) - model.along(exact, episodes.cells)
            counts = away
        wrong, counts = (wrong * counts).flatten(1, -2), counts.flatten(0, -2).sum(0) * 4
        loops = torch.zeros_like(success)
        loops[~success] = goes_round(episodes.cells[:, ~success])
        scores.append(dict(
            success=success, optimal=success & (walked == shortest), loops=loops,
            spl=success * shortest / torch.maximum(walked, shortest),
            q_error=wrong.abs().sum((0, 1)) / counts, q_bias=wrong.sum((0, 1)) / counts))
    return {name: torch.cat([part[name].float() for part in scores]) for name in scores[0]}


def goes_round(cells):
    """Whether a walk (T + 1, B) ends in a round of at most T / 2 steps, walked twice over: (B,)."""
    t = len(cells) - 1
    caught = torch.zeros_like(cells[0], dtype=torch.bool)
    for period in range(1, t // 2 + 1):
        caught |= (cells[t - period:] == cells[t - 2 * period:t - period + 1]).all(0)
    return caught


# --------------------------------------------------------------------------------------------------
# The command line


def run():
    """Trains, and reports. Returns the summary, or None in a process that does not report."""
    device = pick_device()
    with lock(OUT_DIR), processes(device), stop_on_signal() as asked_to_stop:
        network, progress, cache, held_out = train(device, asked_to_stop)
        if RANK == 0:
            known = cache[:, torch.arange(EVAL_MAZES, device=device) % MAZE_CACHE_SIZE]
            return report(network, progress, exam(held_out), exam(known), config(), started,
                          plot_file(), evaluate, rollout)


def solve(path, start="", goal=""):
    """Walks each maze of a file with the agent of CHECKPOINT; prints the walks, and draws a few.

    start, goal: "y,x", for files that can't say it themselves.
    """
    device = pick_device()
    texts = mazefile.read(path, start, goal)
    network, _, _ = load_checkpoint(CHECKPOINT or in_out_dir("checkpoint.pt"), device)
    walks = {}
    for shape in sorted({text.walls.shape for text in texts}):  # mazes of one size, side by side
        numbers = [number for number, text in enumerate(texts) if text.walls.shape == shape]
        mazes = mazefile.stack([texts[number] for number in numbers], device)
        steps = int((~mazes.walls).sum((0, 1)).max())  # more than a shortest path can have
        episodes, thoughts = rollout(network, mazes, steps)
        cells, distance = episodes.cells.cpu(), maze.distances(mazes.walls, mazes.goal)
        shortest = maze.shortest(mazes, distance).tolist()
        for column, number in enumerate(numbers):
            walks[number] = cells[:, column], shortest[column]
        if 0 in numbers and network.whole_maze:
            draw_solved(mazes.select(slice(5)), cells[:, :5], thoughts.q_values()[..., :5],
                        distance[..., :5], network.gamma)
    mazefile.print_walks(texts, walks)


def draw_solved(mazes, cells, q, distance, gamma):
    """solved.png under OUT_DIR: a few mazes, as the agent values and walks them."""
    os.makedirs(OUT_DIR, exist_ok=True)
    exact, farthest = maze.optimal_q(mazes, distance, gamma), max(1, int(distance.max()))
    pictures.walks(in_out_dir("solved.png"), mazes, cells, q, exact, gamma, farthest)


def pick_device():
    local_rank = os.environ.get("LOCAL_RANK") if WORLD > 1 else None
    return settings.pick_device(DEVICE, THREADS, local_rank)


def in_out_dir(name):
    return os.path.join(OUT_DIR, name)


def plot_file():
    """Where the plot goes: only a run with this file's constants replaces training_plot.png."""
    same = all(value == DEFAULTS[name] for name, value in config().items() if name != "RESUME")
    return PLOT_FILE or ("training_plot.png" if same else in_out_dir("training_plot.png"))


def main(arguments):
    """Runs the command line; returns the exit status."""
    def command():
        solving = arguments[:1] == ["solve"]
        if solving and (len(arguments) < 2 or "=" in arguments[1]):
            raise UserError("solve what? Write: python main.py solve FILE")
        given = arguments[2 if solving else 0:]
        ends = [a for a in given if solving and "," in a and a.split("=")[0] in ("START", "GOAL")]
        given = [a for a in given if a not in ends]
        globals().update(settings.override(config(), BY_AGENT, given))
        settings.check(config(), WORLD)
        if solving:
            places = dict(a.lower().split("=", 1) for a in ends)
            solve(arguments[1], **places)
        elif PROFILE:
            profiled(run, in_out_dir("training_stats"))
        else:
            run()

    return exit_status(command, config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
