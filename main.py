"""A deep Q-network learns to walk mazes that it has never seen, by a shortest path: proved.

python main.py                      train with the constants below
python main.py MODEL=cnn SEED=3     the same, with some of them overridden
python main.py RESUME=True          go on with the run in OUT_DIR where it stopped
python main.py prove                check everything that the trained agent can ever see
python main.py solve FILE           walk the mazes in a file with the trained agent
"""

import time

started = time.perf_counter()  # before the imports, so that they count

import copy
import math
import sys

import torch
from torch.nn.functional import smooth_l1_loss

import maze
import model
from maze import Mazes
from model import Episodes
from support import files, mazefile, process, report, settings
from support.agents import build, recall
from support.learning import Adam, Learner, Replay, minibatches, stop_if_not_finite

# fmt: off
# The maze
GRID = 16               # cells on a side, 5..256; an even GRID ends in a row and a column of wall
DIFFICULTY = 1.0        # greatest share of walls kept, 0 (an empty hall) .. 1 (a perfect maze)
DIFFICULTY_MIN = 0.0    # least; a training maze draws its own in between. Evaluation: all walls
GOAL = "random"         # "random": any open cell; "corner": the bottom-right room
MAX_START_DISTANCE = 100  # steps from the farthest start; over MAX_EP_LENGTH it can't be walked
MAZE_CACHE_SIZE = 16_384  # different mazes to train on
MAZE_CACHE_FILE = "mazes.npz"  # under OUT_DIR; made again when its settings differ

# The agent
THINK = True            # with VISION=0: MODEL is the core of an agent that thinks; False: plain
MODEL = "mlp"           # "linear" (thinks only), "mlp", "cnn", "attention"
WIDTH = 128             # units or channels of a layer
LOOKS = 0               # most looks, or rounds of a plain CNN; 0: until nothing changes any more
VISION = 0              # 0: sees the whole maze; r: the (2r + 1)^2 cells around it, through walls
COMPASS = True          # with VISION: knows how far the goal is to the south and to the east
MEMORY = "none"         # with VISION: "none", "trail" (where it was), "gru", "map" (it thinks)

# Reward
STEP_REWARD = -1.0      # for every step
GOAL_REWARD = 0.0       # for the step that reaches the goal, on top
SHAPING = "none"        # potential GAMMA^(d - 1), d the distance: "manhattan"; the true: "oracle"
NOVELTY = 0.0           # for each cell that is new in this episode

# Learning
GAMMA = 1.0             # discount a step; 1: a value is a number of steps
CREDIT = "step"         # the target: "step": r + next V; "lambda": the Q(lambda) return; "episode":
                        # the best return by moves that the episode made
LAMBDA = 0.9            # with CREDIT="lambda"; 0: one step; 1: to the next exploring action
UNIT = "q"              # what an agent that does not think learns: "q", or "advantage": Q - V
LR = 0.01               # Adam's step size at the start
LR_DECAY = 0.5          # share of the run, at its end, in which the step size falls to 0
UPDATES = 40            # gradient steps a batch, each on a minibatch of its episodes
TARGET_SYNCS = 1        # times a batch that the target network is copied
DOUBLE = False          # double DQN: the online network picks the next action, the target values it
HUBER = 0.1             # TD error at which the loss turns linear
GRAD_CLIP = 1.0         # greatest norm of the gradient
REPLAY = "off"          # learn from a replay memory: "off", "uniform", "prioritized" (by TD error)
REPLAY_SIZE = 16_384    # episodes in it
PRIORITY_ALPHA = 0.6    # prioritized: exponent of the priority; 0: uniform, 1: proportional
PRIORITY_BETA = 0.4     # prioritized: exponent of importance weights at first; 1 at the end

# Exploration: episode i of a batch acts at random with chance
# EPSILON * (i / (BSZ - 1)) ** EPSILON_SHAPE
EPSILON = 1.0           # of the most exploring episode, 0..1
EPSILON_SHAPE = 1.5     # 1: evenly from 0 to EPSILON; higher: more episodes are nearly greedy

# Curriculum: a level from 0 to 1 raises walls (to DIFFICULTY) and start distances together
CURRICULUM = "adaptive"  # "adaptive": by success; "linear": by time; "off": level 1 from the start
CURRICULUM_SUCCESS = 0.8  # adaptive: success of the least exploring quarter that raises the level
CURRICULUM_STEP = 0.1   # adaptive: by so much
CURRICULUM_SHARE = 0.5  # linear: share of the run after which the level is 1

# The run
NUM_EPISODES = 20_480   # episodes in all, in whole batches
UNTIL_PROVED = True     # stop earlier, once an agent that thinks is proved to be right
BSZ = 1024              # episodes side by side
MAX_EP_LENGTH = 100     # steps after which an episode is cut off; it still bootstraps
SEED = 0                # of mazes, weights and exploration; held-out mazes have their own
DEVICE = "auto"         # "auto": a CUDA GPU where there is one, else the CPU; "cuda:1", "mps"
THREADS = 1             # CPU threads, 0: torch's choice; on such small tensors more are slower
EVAL_MAZES = 10_000     # held-out mazes in the final evaluation; a quarter as many training mazes
EVAL_SAMPLE = 256       # held-out, and as many training mazes, in each evaluation on the way
EVAL_EVERY = 1          # batches from one evaluation to the next; each saves, too
OUT_DIR = "out"         # for all that a run writes, but for the plot
PLOT_FILE = ""          # "": training_plot.png, if the constants are as here; else in OUT_DIR
PLOT_EVERY = 30         # seconds after which the plot is drawn anew while training runs
RESUME = False          # go on with the run that OUT_DIR holds, with the same constants
CHECKPOINT = ""         # the file that `solve` and `prove` read; "": checkpoint.pt under OUT_DIR
PROFILE = False         # run under cProfile: prints the 30 slowest calls, saves training_stats

# What other kinds of agent need in place of these. The command line beats both.
PLAIN = dict(CREDIT="episode", UNIT="advantage", DIFFICULTY_MIN=1.0, UPDATES=32,
             CURRICULUM_SUCCESS=0.6, CURRICULUM_STEP=0.05, EVAL_EVERY=5, EVAL_MAZES=2_000)
AGENTS = {
    "thinks cnn": dict(WIDTH=24, LR=0.005),
    "thinks attention": dict(WIDTH=32, LR=0.005, UPDATES=80),
    "plain cnn": dict(WIDTH=16, LR=0.006, NUM_EPISODES=61_440, **PLAIN),
    "plain mlp": dict(WIDTH=512, LR=0.001, NUM_EPISODES=102_400, **PLAIN),
    "plain attention": dict(WIDTH=32, LR=0.002, NUM_EPISODES=20_480, **PLAIN),
    "map": dict(NUM_EPISODES=10_240),
    "window": PLAIN | dict(MAX_EP_LENGTH=200, LR=0.002, UPDATES=20, HUBER=0.5, EPSILON=0.5,
                           CURRICULUM_SUCCESS=0.5, NUM_EPISODES=51_200),
    "window trail": dict(UPDATES=40, LR=0.001),
}
# fmt: on

# The constants, as they stand above.
WRITTEN = {k: v for k, v in globals().items() if k.isupper() and not isinstance(v, dict)}


def config() -> dict:
    """Every constant with its present value."""
    return {name: globals()[name] for name in WRITTEN}


# --------------------------------------------------------------------------------------------------
# Training: draw mazes -> act -> learn -> evaluate


def train(device, reporter=None, asked_to_stop=lambda: 0):
    """Trains an agent with the constants as they stand. reporter: see `support.files.Reporter`.

    Returns it, the record of the run, the training mazes and the held-out mazes, bit-packed.
    """
    torch.manual_seed(SEED)
    generator = torch.Generator(device).manual_seed(SEED)
    online = build(config()).to(device).eval()
    replay = Replay.of(config(), device) if REPLAY != "off" else None
    optimizer = Adam(online.parameters(), LR, GRAD_CLIP)
    learner = Learner(online, copy.deepcopy(online), optimizer, replay, generator)
    # Shuffled, so that every update learns from all kinds of exploration.
    rank = torch.randperm(BSZ, generator=generator, device=device)
    epsilon = EPSILON * (rank / max(1, BSZ - 1)) ** EPSILON_SHAPE
    quarter = max(1, BSZ // 4)
    batches = math.ceil(NUM_EPISODES / BSZ)
    level = float(CURRICULUM == "off")
    record = dict(batch=0, level=level, env_steps=0, history=[], proved=False, began=started)
    if RESUME:
        record = files.resume(f"{OUT_DIR}/checkpoint.pt", config(), learner, started)
    cache = files.load_cache(f"{OUT_DIR}/{MAZE_CACHE_FILE}", MAZE_CACHE_SIZE, GRID, SEED, device)
    held_out = files.make_held_out(EVAL_MAZES, GRID, cache)
    packed = torch.cat([held_out[:, :EVAL_SAMPLE], cache[:, :EVAL_SAMPLE]], 1)
    sample = report.test_set(config(), packed)
    if reporter:
        reporter.begin(learner, cache, batches)

    for batch in range(record["batch"], 0 if UNTIL_PROVED and record["proved"] else batches):
        farthest = 1 + round(record["level"] * (MAX_START_DISTANCE - 1))
        mazes = draw(cache, BSZ, record["level"], farthest, generator)
        episodes, _ = rollout(online, mazes, MAX_EP_LENGTH, epsilon, generator, farthest)

        optimizer.lr = LR * min(1, (1 - batch / batches) / LR_DECAY) if LR_DECAY else LR
        losses, grad_norms = learn(learner, episodes, batch / batches, farthest)
        stop_if_not_finite(config(), losses, grad_norms, *online.parameters())

        away = episodes.cells != episodes.mazes.goal
        record["env_steps"] += int(away[:-1].sum())
        arrived = int((~away[-1] & (rank < quarter)).sum())  # of the least exploring
        level = next_level(record["level"], (batch + 1) / batches, arrived / quarter)
        evaluating = batch % EVAL_EVERY == 0
        wrong = report.wrong_views(online)
        proved = evaluating and wrong == 0 and LOOKS == 0
        ended = batch + 1 == batches or (UNTIL_PROVED and proved)
        stopped = 0 if ended else asked_to_stop()
        record.update(batch=batch + 1, level=level, proved=proved, stopped=stopped)
        if evaluating or ended or stopped:
            scores = evaluate(online, *sample)
            means = dict(loss=losses, grad_norm=grad_norms, epsilon=epsilon)
            record["history"] += [report.row(config(), record, optimizer.lr, scores, means, wrong)]
            record.setdefault("early", copy.deepcopy(online.state_dict()))  # for agent.gif
            if reporter:
                reporter.evaluated(learner, record)
        if ended or stopped:
            break
    return online, record, cache, held_out


def draw(cache, n: int, level: float, farthest: int, generator) -> Mazes:
    """n training mazes at the curriculum's level, starts at most `farthest` steps away."""
    index = torch.randint(cache.shape[1], (n,), generator=generator, device=cache.device)
    share = torch.rand(n, generator=generator, device=cache.device)
    difficulty = DIFFICULTY_MIN + level * share * (DIFFICULTY - DIFFICULTY_MIN)
    return maze.draw(cache[:, index], GRID, difficulty, farthest, GOAL, generator)


def next_level(level: float, share_done: float, success: float) -> float:
    """The curriculum's level after a batch. share_done: of the run."""
    if CURRICULUM == "linear":
        return min(1.0, share_done / CURRICULUM_SHARE)
    if CURRICULUM == "adaptive" and success >= CURRICULUM_SUCCESS:
        return min(1.0, level + CURRICULUM_STEP)
    return level


# --------------------------------------------------------------------------------------------------
# Acting: network -> Q -> moves -> episodes -> scores


@torch.no_grad()
def rollout(network, mazes: Mazes, length: int, epsilon=None, generator=None, farthest=None):
    """Walks `length` steps in each maze, greedily but for random actions with chance epsilon (B,).

    Returns the `Episodes`, and the `sight` that it had of the mazes (see support/agents.py).
    """
    sight, shape = network.begin(mazes, farthest), (length, len(mazes.goal))
    # (length, B): a random action, 0..3, where the die is below epsilon; else 4, the greedy one.
    choices = torch.full(shape, 4, dtype=torch.int32, device=mazes.goal.device)
    if epsilon is not None:
        dice = torch.rand(shape, generator=generator, device=mazes.goal.device)
        choices = torch.where(dice < epsilon, dice * (4 / epsilon), 4).int()
    if network.whole_maze:
        greedy = sight.greedy()
        cells = maze.walk(maze.move_table(mazes, greedy), mazes.start, choices)
        actions = torch.where(choices == 4, maze.along(greedy, cells[:-1]), choices)
    else:
        cells = maze.walk(maze.move_table(mazes), mazes.start, choices, sight.act)
        actions = choices  # `walk` has put the action taken in place of each 4
        sight.act(cells[-1])  # so that it has seen the last cell, too
    return with_rewards(mazes, cells, actions.long(), sight.seen(cells)), sight


def with_rewards(mazes: Mazes, cells, actions, seen) -> Episodes:
    """The episodes with what their steps earn."""
    earned = maze.rewards(mazes, cells, STEP_REWARD, GOAL_REWARD, NOVELTY, SHAPING, GAMMA)
    return Episodes(mazes, cells, actions, *earned, seen)


@torch.no_grad()
def evaluate(network, mazes: Mazes, distance, length=None, at_once=2**18):
    """How the greedy agent does in each maze: a dictionary of float tensors (B,).

    distance (H, W, B): steps to the goal. length: else MAX_EP_LENGTH. at_once: cells, at most.
    """
    scores, chunk = [], max(1, at_once // distance[..., 0].numel())
    for i in range(0, len(mazes.goal), chunk):
        part, d = mazes.select(slice(i, i + chunk)), distance[..., i : i + chunk]
        episodes, sight = rollout(network, part, length or MAX_EP_LENGTH)
        exact = maze.optimal_q(part, d, GAMMA, STEP_REWARD, GOAL_REWARD)
        if UNIT == "advantage":
            exact = exact - exact.amax(0)
        else:  # with shaping it learns Q less the potential
            exact = exact - maze.potential(part, SHAPING, GAMMA)
        scores.append(report.score(network, episodes, sight, d, exact))
    return report.joined(scores)


# --------------------------------------------------------------------------------------------------
# Learning: what was seen -> targets -> TD errors -> a gradient step


def learn(learner: Learner, episodes: Episodes, share_done: float, farthest=None):
    """UPDATES gradient steps, each on its own share of these episodes, or of remembered ones.

    share_done: of the run. Returns the losses and the norms of the gradient, (2, UPDATES).
    """
    online, target, optimizer, replay, generator = learner
    n, results = len(episodes.mazes.goal), []
    weight = torch.ones(n, device=episodes.cells.device)
    if replay:
        replay.add(episodes.mazes, episodes.cells, episodes.actions)
        beta = PRIORITY_BETA + (1 - PRIORITY_BETA) * share_done
        *remembered, index, weight = replay.sample(n, generator, beta)
        episodes = with_rewards(*remembered, episodes.seen[:0])  # seen anew, below
    syncs = min(TARGET_SYNCS, UPDATES)
    for sync in range(syncs):
        first, last = sync * UPDATES // syncs, (sync + 1) * UPDATES // syncs
        lanes = slice(first * n // UPDATES, last * n // UPDATES)  # episodes until the next sync
        # With double DQN the target is copied one sync late: else the two would be the same.
        if not DOUBLE:
            target.load_state_dict(online.state_dict())
        group = episodes.select(lanes)
        if replay or sync:  # the target has changed since, or these are remembered
            group = recall(target, group, farthest)
        how = dict(credit=CREDIT, lam=LAMBDA, double=DOUBLE, less_v=UNIT == "advantage")
        td_target, counts = model.td_targets(online, target, group, GAMMA, **how)
        if DOUBLE:
            target.load_state_dict(online.state_dict())
        online.train()
        for part, steps in minibatches(counts, last - first, online.kinds(group)):
            by_step = group.actions, td_target, weight[lanes].expand_as(td_target)
            action, wanted, weigh = (x[:, part].flatten()[steps] for x in by_step)
            error = online.q(group.select(part), steps).gather(0, action[None])[0] - wanted
            # Huber's loss over HUBER, so that its slope is at most 1.
            loss = smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=HUBER)
            results.append(optimizer.step(loss * weigh))
            if replay:
                replay.set_priority(index[lanes][part], steps, error.detach())
        online.eval()  # by which an agent that thinks fills the table that it acts by
    return torch.stack(results, 1)


# --------------------------------------------------------------------------------------------------
# The command line


def run():
    """Trains, and reports. Returns the exit status: 0, or that of a signal (128 + its number)."""
    device = process.pick_device(DEVICE, THREADS)
    with process.lock(OUT_DIR), process.stop_on_signal() as asked_to_stop:
        reporter = files.Reporter(config(), WRITTEN)
        network, record, cache, held_out = train(device, reporter, asked_to_stop)
        new = report.test_sets(config(), held_out)
        old = report.test_sets(config(), cache[:, : math.ceil(EVAL_MAZES / 4)])
        unseen = ((*part, evaluate(network, *part)) for part in new)
        known = (evaluate(network, *part) for part in old)
        summary, few = report.figures(reporter, network, record, unseen, known)
        early = copy.deepcopy(network)
        early.load_state_dict(record["early"])
        walks = [(agent, *rollout(agent, few, MAX_EP_LENGTH)) for agent in (early, network)]
        report.end_of_run(reporter, record, summary, few, walks)
        return record["stopped"] or asked_to_stop()


def main(arguments: list[str], began=None) -> int:
    """Runs a command, begun at `began` or now; returns the exit status, restores the constants."""
    before, began, verb = config(), began or time.perf_counter(), settings.verb_of(arguments)

    def command():
        paths, given, told = settings.split(arguments, __doc__, mazefile.__doc__)
        globals().update(settings.of_run(before, AGENTS, given), started=began)
        settings.check(config())
        if verb == "train":
            return process.profiled(run, f"{OUT_DIR}/training_stats") if PROFILE else run()
        mazes = [one for path in paths for one in mazefile.read(path, **told)]
        device = process.pick_device(DEVICE, THREADS)
        network, own, _ = files.load_checkpoint(CHECKPOINT or f"{OUT_DIR}/checkpoint.pt", device)
        if verb == "prove":
            return report.prove(network)
        batches = mazefile.side_by_side(mazes, device)
        walks = (rollout(network, *batch) for batch in batches.values())
        mazefile.show(mazes, batches, walks, own, f"{OUT_DIR}/solved.png")

    try:
        return process.exit_status(command, config, verb)
    finally:
        globals().update(before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], started))
