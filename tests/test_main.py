"""What a run does, and how it is measured: metrics, the curriculum, whole runs, constants."""

import re

import numpy as np
import pytest
import reference
import torch
from reference import drawn, seeded, to_goal
from scipy.stats import chisquare
from test_runs import KINDS, RETURNS, quick, rows_of, runs, summary_of  # noqa: F401

import main
import maze
import model
from support import files, learning, plain, report
from support.files import load_checkpoint
from support.learning import Adam, Replay

FULL_MARKS = dict(success=1, optimal=1, spl=1, loops=0, q_error=0, q_bias=0)


def scores(agent, mazes, **how):
    return main.evaluate(agent, mazes, maze.distances(mazes.walls, mazes.goal), **how)


class Noisy(reference.Table):
    """An agent that knows Q*, but for its table (4, H, W, 1)."""

    def begin(self, mazes, farthest=None):
        exact = maze.optimal_q(mazes, maze.distances(mazes.walls, mazes.goal))
        return plain.Answers(exact + self.table.detach(), 0)


# Metrics


REWARDS = [
    dict(),
    dict(GAMMA=0.95, STEP_REWARD=-0.1),
    dict(GAMMA=0.9, STEP_REWARD=0.0, GOAL_REWARD=1.0),
    dict(GAMMA=0.9, STEP_REWARD=0.0, GOAL_REWARD=1.0, SHAPING="manhattan"),
    dict(GAMMA=0.9, STEP_REWARD=0.0, GOAL_REWARD=1.0, SHAPING="oracle"),
    dict(UNIT="advantage"),
]


@pytest.mark.parametrize("own", REWARDS, ids=str)
@pytest.mark.parametrize("stepwise", [False, True])
def test_exact_answers_score_full_marks(own, stepwise):
    """Held against value iteration; of an agent that learns Q less shaping's potential, or
    advantages, that is. Where the goal can't be reached, and in the goal, nothing counts."""
    vars(main).update(own)
    mazes = reference.random_mazes(60, 5, 6)
    counts = to_goal(mazes) > 0
    reached = counts.flatten(0, 1)[mazes.start, range(60)].nonzero()[:, 0]
    mazes, counts = mazes.select(reached), counts[..., reached]
    lanes, how = [*reference.one_by_one(mazes)], (main.GAMMA, main.STEP_REWARD, main.GOAL_REWARD)
    q = np.stack([reference.optimal_q(*lane, *how) for lane in lanes], -1)
    phi = [reference.potential(*lane, main.GAMMA, main.SHAPING) for lane in lanes]
    q = torch.from_numpy(q - np.reshape(phi, (-1, 5, 6)).transpose(1, 2, 0)).float()
    exact = q.where(counts, 0)
    exact = exact - exact.amax(0) if main.UNIT == "advantage" else exact
    agent = reference.Table(exact + 5.0 * ~counts)
    found = scores(reference.Stepwise(agent) if stepwise else agent, mazes)
    assert report.average(found) == pytest.approx(FULL_MARKS, abs=1e-5)


def test_evaluation_walks_as_a_slow_simulator_does_without_a_random_action():
    """In parts as at once, and step by step; and it uses up no randomness."""
    main.MAX_EP_LENGTH = 12
    mazes, noise = drawn(150, 12, 0.5), torch.randn(4, 12, 12, 1, generator=seeded())
    agent, before = Noisy(noise), torch.get_rng_state()
    found, parts = scores(agent, mazes), scores(agent, mazes, at_once=500)
    stepwise = scores(reference.Stepwise(agent), mazes)
    assert torch.equal(torch.get_rng_state(), before)
    best, counts = agent.begin(mazes).q().argmax(0).flatten(0, 1), to_goal(mazes) > 0
    for i, (walls, goal) in enumerate(reference.one_by_one(mazes)):
        cells = [int(mazes.start[i])]
        for _ in range(12):
            cells.append(reference.step(walls, goal, cells[-1], best[cells[-1], i]))
        steps, success = len([cell for cell in cells if cell != goal]), cells[-1] == goal
        shortest = reference.distances(walls, goal).flat[cells[0]]
        ends = [cells[12 - 2 * period :] for period in range(1, 7)]
        around = any(end[: len(end) // 2 + 1] == end[len(end) // 2 :] for end in ends)
        wanted = dict(success=success, optimal=success and steps == shortest)
        wanted |= dict(spl=success * shortest / max(steps, shortest), loops=not success and around)
        wanted = {name: pytest.approx(float(value)) for name, value in wanted.items()}
        for how in found, parts, stepwise:
            assert {name: how[name][i].item() for name in wanted} == wanted
        off = noise[..., 0][:, counts[..., i]]  # in each cell from which the goal can be reached
        assert found["q_error"][i].item() == pytest.approx(off.abs().mean().item(), rel=1e-4)
        assert found["q_bias"][i].item() == pytest.approx(off.mean().item(), abs=1e-4)
    assert all(0.01 < found[name].mean() < 0.99 for name in wanted)
    assert found["optimal"].sum() < found["success"].sum() < 150 - found["loops"].sum()


def test_going_round_is_to_walk_a_round_twice_at_the_end():
    way = torch.arange(100, 121)  # 20 steps
    walks = [torch.cat([way[: 20 - 2 * n], way[:n].repeat(3)[: 2 * n + 1]]) for n in range(1, 11)]
    once = [torch.cat([way[: 20 - n], way[:1], way[1 : n + 1]]) for n in range(2, 11)]
    assert report.goes_round(torch.stack(walks, 1)).all()
    assert not report.goes_round(torch.stack([way, *once], 1)).any()


def test_the_pictures_are_given_the_agent_after_its_first_batch_and_at_the_end(quick, monkeypatch):
    given = []
    monkeypatch.setattr(report, "end_of_run", lambda *those: given.extend(those[-1]))
    assert runs(quick, "BSZ=256", "NUM_EPISODES=2560", "UPDATES=20") == 0
    (early, first, _), (agent, last, _) = given
    assert report.wrong_views(early) > report.wrong_views(agent)
    assert torch.equal(first.mazes.goal, last.mazes.goal) and not torch.equal(first[1], last[1])


def test_scores_by_distance_are_those_of_a_slow_count():
    shortest, success = np.arange(1, 61).repeat(5), np.arange(300) % 7 < 3
    found = dict(success=torch.tensor(success).float(), q_error=torch.arange(300.0))
    bands = report.by_distance(found, torch.tensor(shortest))
    assert list(bands) == [f"{low}-{low + 9}" for low in range(1, 61, 10)]
    for i, band in enumerate(bands.values()):
        inside = slice(50 * i, 50 * i + 50)
        wanted = dict(mazes=50, success=success[inside].mean(), q_error=50 * i + 24.5)
        assert band == pytest.approx(wanted)


def test_the_random_walk_finds_the_goal_as_often_as_its_markov_chain():
    """Absorbed in the goal within the episode: by powers of the matrix of transitions."""
    mazes, steps, chances = reference.random_mazes(20, 5, 6, 3), 40, []
    for (walls, goal), start in zip(reference.one_by_one(mazes), mazes.start.tolist()):
        move = np.zeros((30, 30))
        for cell, action in np.ndindex(30, 4):
            move[cell, reference.step(walls, goal, cell, action)] += 1 / 4
        chances.append(np.linalg.matrix_power(move, steps)[start, goal])
    many = mazes.select(torch.arange(1000) % 20)
    found = report.random_walk(many, dict(SEED=0, MAX_EP_LENGTH=steps))
    spread = (np.multiply(chances, 1 - np.array(chances)).mean() / 1000) ** 0.5
    assert abs(found - np.mean(chances)) < 4 * spread and spread > 0.005


# Mazes: held out, and drawn


def test_held_out_mazes_keep_their_walls_and_are_the_same_for_every_run():
    packed, config = maze.make_mazes(100, 16, seeded()), main.config()
    whole, distance = report.test_set(config, packed)
    assert torch.equal(maze.pack(whole.walls), packed)
    at_start = distance.flatten(0, 1).gather(0, whole.start[None])
    assert 1 <= at_start.min() <= 5 and 50 < at_start.max() <= main.MAX_START_DISTANCE
    torch.manual_seed(5)
    others = config | dict(SEED=7, DIFFICULTY=0.2, CURRICULUM="off")
    assert all(map(torch.equal, report.test_set(others, packed)[0], whole))
    parts = list(report.test_sets(config, packed, cells=40 * 16**2))  # of many, not all at once
    assert [len(mazes.goal) for mazes, _ in parts] == [40, 40, 20]
    assert torch.equal(torch.cat([mazes.walls for mazes, _ in parts], 2), whole.walls)
    for mazes, away in [(whole, distance), *parts]:
        assert torch.equal(away.long(), to_goal(mazes))


def test_draw_keeps_the_share_of_walls_and_uses_the_whole_cache():
    cache = maze.make_mazes(200, 16, seeded())
    in_perfect = maze.unpack(cache, 16, 16).float().mean()
    for level, least, most in (0.0, 0, 1), (0.5, 0, 1), (1.0, 0, 1), (0.5, 0.4, 0.8), (0.5, 1, 1):
        vars(main).update(DIFFICULTY_MIN=least, DIFFICULTY=most)
        mazes, wide = main.draw(cache, 600, level, 30, seeded(2)), level * (most - least)
        share = mazes.walls.float().mean((0, 1)) / in_perfect
        assert share.mean().item() == pytest.approx(least + wide / 2, abs=0.06)
        assert share.std().item() == pytest.approx(wide / 12**0.5, abs=0.06)
        far = to_goal(mazes).flatten(0, 1).gather(0, mazes.start[None])
        assert 1 <= far.min() and 20 < far.max() <= 30
    few = cache[:, :50]  # of which all walls are kept
    seen = files.fingerprints(maze.pack(main.draw(few, 4000, 1.0, 100, seeded()).walls))
    counts = [seen.count(one) for one in files.fingerprints(few)]
    assert sum(counts) == 4000 and chisquare(counts).pvalue > 1e-6


# Whole runs


PLAIN = "THINK=False WIDTH=8 TARGET_SYNCS=1 MODEL="
WINDOW = f"VISION=1 WIDTH=16 SHAPING=manhattan NOVELTY=0.01 {RETURNS}"
MAP = "VISION=1 MEMORY=map WIDTH=8 BSZ=16 NUM_EPISODES=32 MAX_EP_LENGTH=8"


def noted(monkeypatch, place, name):
    """The calls of a function from now on: a list of (arguments, result)."""
    calls, real = [], getattr(place, name)

    def noting(*arguments, **more):
        calls.append((arguments, real(*arguments, **more)))
        return calls[-1][1]

    monkeypatch.setattr(place, name, noting)
    return calls


@pytest.mark.parametrize("agent", KINDS[2::2])
def test_same_seed_same_weights_bit_for_bit_however_often_it_is_evaluated(quick, agent):
    weights = []
    for change in "SEED=0", "EVAL_EVERY=9", "SEED=1":
        assert runs(quick / "out", *agent.split(), "NUM_EPISODES=96", change) == 0
        network, _, _ = load_checkpoint(str(quick / "out" / "checkpoint.pt"), "cpu")
        weights.append(list(network.parameters()))
    first, again, other = weights
    assert all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))


@pytest.mark.parametrize("curriculum", ["adaptive", "linear", "off"])
def test_a_run_explores_and_raises_its_level_as_its_constants_say(quick, monkeypatch, curriculum):
    """In each batch: all episodes' own epsilon, shuffled over them; success is that of the least
    exploring quarter; the farthest start goes with the level."""
    walks, asked = noted(monkeypatch, main, "rollout"), noted(monkeypatch, main, "next_level")
    given = f"CURRICULUM={curriculum} CURRICULUM_STEP=0.3 CURRICULUM_SUCCESS=0.6 LR=0.02 "
    given += "BSZ=128 NUM_EPISODES=1280 MAX_EP_LENGTH=20 EPSILON=0.8 EPSILON_SHAPE=3 "
    given += "DIFFICULTY_MIN=1 UNTIL_PROVED=False"
    assert runs(quick / "out", *given.split()) == 0
    walks = [(*how[3:4], episodes) for how, (episodes, _) in walks if len(how) > 3]
    rows = rows_of(quick / "out")
    levels, rates = ([float(row[name]) for row in rows] for name in ("level", "learning_rate"))
    assert rates == pytest.approx([0.02 * min(1, (10 - batch) / 5) for batch in range(10)])
    explored = 0.8 * torch.linspace(0, 1, 128) ** 3
    level, steps = float(curriculum == "off"), 0
    for i, ((epsilon, episodes), (how, _)) in enumerate(zip(walks, asked, strict=True)):
        away = episodes.cells != episodes.mazes.goal
        assert torch.allclose(epsilon.sort().values, explored, atol=1e-6)
        for quarter in epsilon.argsort().chunk(4):  # everywhere in the batch
            assert quarter.float().std() > 20 and 40 < quarter.float().mean() < 88
        least = epsilon.argsort()[:32]
        success = (~away[-1, least]).float().mean().item()
        assert how == (level, pytest.approx((i + 1) / 10), pytest.approx(success))
        mazes, most = episodes.mazes, 1 + level * 19
        far = to_goal(mazes).flatten(0, 1).gather(0, mazes.start[None]).max().item()
        assert (most - 2 if level == 1 else most / 2) <= far <= most + 0.5
        if curriculum == "adaptive":
            level = min(1.0, level + 0.3) if success >= 0.6 else level
        elif curriculum == "linear":
            level = min(1.0, (i + 1) / 10 / 0.5)
        assert levels[i] == pytest.approx(level)
        level, steps = levels[i], steps + int(away[:-1].sum())
    assert level > 0.8 and summary_of(quick / "out")["env_steps"] == steps


def test_scores_come_from_held_out_mazes_only(quick, monkeypatch):
    """With an evaluation that gives 1 to training mazes and 0 to others."""
    known = set(files.fingerprints(maze.make_mazes(300, 12, seeded())))

    def evaluate(network, mazes, distance):
        walls = files.fingerprints(maze.pack(mazes.walls))
        return dict.fromkeys(FULL_MARKS, torch.tensor([float(one in known) for one in walls]))

    monkeypatch.setattr(main, "evaluate", evaluate)
    for held_out, sample in (60, 20), (20, 60):
        many = f"GRID=12 MAZE_CACHE_SIZE=300 EVAL_MAZES={held_out} EVAL_SAMPLE={sample}".split()
        assert runs(quick / "out", *many, "NUM_EPISODES=32") == 0
        found = summary_of(quick / "out")
        names = "success", "generalization_gap", "eval_mazes"
        assert [found[name] for name in names] == [0, 1, held_out]
        for row in rows_of(quick / "out"):
            assert float(row["success"]) == 0 and float(row["train_success"]) == 1


def test_each_episode_is_learned_from_once_where_updates_do_not_divide_a_batch(quick, monkeypatch):
    walked, learned = noted(monkeypatch, main, "rollout"), noted(monkeypatch, model, "td_targets")
    given = "BSZ=10 UPDATES=7 TARGET_SYNCS=3 NUM_EPISODES=19".split()
    assert runs(quick / "out", *given) == 0 and summary_of(quick / "out")["episodes"] == 20
    cells = [episodes.cells for how, (episodes, _) in walked if len(how) > 3]
    assert torch.equal(torch.cat([how[2].cells for how, _ in learned], 1), torch.cat(cells, 1))


def test_a_run_weighs_what_it_remembers_and_remembers_the_errors(quick, monkeypatch):
    sampled, learned = (noted(monkeypatch, Replay, name) for name in ("sample", "set_priority"))
    targets, steps = noted(monkeypatch, model, "td_targets"), noted(monkeypatch, Adam, "step")
    given = "VISION=1 WIDTH=16 REPLAY=prioritized PRIORITY_BETA=0.2 REPLAY_SIZE=50 TARGET_SYNCS=9"
    given = *given.split(), *RETURNS.split(), "NUM_EPISODES=128", "HUBER=0.05"
    assert runs(quick / "out", *given) == 0
    assert [how[3] for how, _ in sampled] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert len(targets) == len(steps) == len(learned) == 16  # a sync, an update: 8 episodes of 32
    assert summary_of(quick / "out")["updates"] == 16
    for number in range(16):
        *_, index, weight = sampled[number // 4][1]
        own = slice(number % 4 * 8, number % 4 * 8 + 8)
        _, which, where, errors = learned[number][0]
        (_, _, episodes, *_), (_, counts) = targets[number]
        assert torch.equal(counts, episodes.cells[:-1] != episodes.mazes.goal)
        assert torch.equal(where.sort().values, counts.flatten().nonzero()[:, 0])
        assert torch.equal(which, index[own]) and errors.any()
        size = errors.abs()
        loss = torch.where(size < 0.05, size**2 / 0.1, size - 0.025)
        weighed = loss * weight[own][where % 8]
        assert torch.allclose(steps[number][0][1], weighed, atol=1e-6)
    assert any(found[-1].std() > 0 for _, found in sampled)


def test_agents_that_do_not_think_are_neither_proved_nor_not(quick, capsys):
    for agent in WINDOW, f"{PLAIN}mlp":
        assert runs(quick / "out", *agent.split(), "NUM_EPISODES=64") == 0
        found = summary_of(quick / "out")
        assert found["wrong_views"] is found["proved"] is found["seconds_to_proof"] is None
        assert found["episodes"] == 64 and "prove" not in capsys.readouterr().out
    assert runs(quick / "map", *MAP.split()) == 0 and summary_of(quick / "map")["proved"] is False


# What it says on the way


def test_progress_says_how_long_still(capsys):
    row = dict(episodes=100, seconds=30.0, level=0.5, loss=0.1, q_error=2.0, success=0.25)
    files.show_progress(dict(history=[row | dict(wrong_views=1234)]), 400, main.config())
    wanted = r" 25%  100 episodes  3/s +90 s left .*success 0.250  wrong views 1,234\n"
    assert re.match(wanted, capsys.readouterr().out)
    files.show_progress(dict(history=[row | dict(wrong_views=None)]), 400, main.config())
    assert "views" not in capsys.readouterr().out


def test_watchman_speaks_only_of_a_loss_that_has_risen_and_stays_high():
    def warning(losses, **own):
        rows = [dict(loss=loss, level=0.5, success=0.5) for loss in losses]
        return learning.warning(rows, main.config() | own)

    for calm in [7, 1.1, 1.5, 0.1], [0.1, 1.5, 1.1], [0.1, 8, 0.2, 4, 16], [1e-9, 1e-5] * 3:
        assert warning(calm) is None
    said = warning([5, 0.1, 1.5, 1.1, 7], TARGET_SYNCS=4)
    assert "from 1.0e-01 to 7.0e+00" in said and f"LR is too high (now {main.LR:g})" in said
    assert "TARGET_SYNCS=4; try 1" in said and "LAMBDA" not in said  # which does not act


# Constants


def settings_of(monkeypatch, *arguments):
    """The constants with which a run would begin."""
    found = []
    with monkeypatch.context() as patch:
        patch.setattr(main, "run", lambda: found.append(main.config()))
        assert main.main([*arguments]) == 0
    return found[0]


OWN = {"": [], "MODEL=cnn": ["thinks cnn"], "MODEL=linear": ["thinks linear"]}
OWN |= {"VISION=2": ["window"], "MEMORY=gru VISION=1": ["window"]}
OWN |= {"VISION=2 MEMORY=trail": ["window", "window trail"], "THINK=False VISION=2": ["window"]}
OWN |= {f"THINK=False MODEL={name}": [f"plain {name}"] for name in plain.NETWORKS}
OWN |= {"VISION=2 MEMORY=map MODEL=attention": ["thinks attention", "map"]}


@pytest.mark.parametrize("arguments", OWN)
def test_the_command_line_beats_the_table_of_agents_beats_the_constants(monkeypatch, arguments):
    """And each command leaves the constants as they stand, even one that fails."""
    assert {kind for kinds in OWN.values() for kind in kinds} >= main.AGENTS.keys()
    before, wanted, words = main.config(), main.config(), arguments.split()
    for name in OWN[arguments]:
        wanted |= main.AGENTS.get(name, {})
    for word in words:
        name, _, value = word.partition("=")
        wanted[name] = type(wanted[name])(value != "False" and value)
    assert settings_of(monkeypatch, *words) == wanted
    for name, value in dict(LR=0.3, HUBER=0.7, UPDATES=3).items():
        for both in [f"{name}={value}", *words], [*words, f"{name}={value}"]:
            assert settings_of(monkeypatch, *both) == wanted | {name: value}
    assert main.main([*words, "SEED=3", "LR=-1"]) == 2
    assert main.config() == before
    main.GRAD_CLIP = 0.7  # edited in the file
    assert settings_of(monkeypatch, *words) == wanted | dict(GRAD_CLIP=0.7)


def test_every_constant_can_be_given_and_keeps_its_type(monkeypatch):
    before = main.config()
    given = [f"{name}={value}" for name, value in before.items()]
    assert len(before) > 40 and settings_of(monkeypatch, *given) == before
    given = "SEED=3 LR=1 RESUME=false PROFILE=0 MODEL=cnn NUM_EPISODES=1e6 BSZ=2_048 OUT_DIR=a=b"
    found = settings_of(monkeypatch, *given.split())
    values = [found[argument.partition("=")[0]] for argument in given.split()]
    assert repr(values) == "[3, 1.0, False, False, 'cnn', 1000000, 2048, 'a=b']"
