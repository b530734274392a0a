import os
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import main
import maze
import model
import reference
from maze import UserError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(name, grid=8, width=6, gamma=0.9):
    """A network with random weights, in layers that begin with zeros, too."""
    torch.manual_seed(0)
    network = model.MODELS[name](grid, width, gamma)
    for weights in network.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.1)
    return network


def random_vin(gamma=0.9):
    """A VIN whose p takes all values from 0 to 1, the ends included."""
    network = build("vin", gamma=gamma)
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(torch.randn(weights.shape, generator=seeded(1)) * 1.5)
        network.reward.fill_(0.8)
    return network


def random_episodes(b=40, h=6, w=6, steps=12, epsilon=0.5):
    """(episodes that walk in random mazes, the Q in which they are partly greedy)"""
    mazes, q = reference.random_mazes(b, h, w, share=0.1), torch.randn(4, h, w, b, generator=seeded(2))
    episodes = main.rollout(mazes, q, steps, torch.full((b,), epsilon), seeded(3))
    assert 5 < (episodes.cells[-1] == mazes.goal).sum() < b - 5
    return episodes, q


# Networks


@pytest.mark.parametrize("h, w", [(7, 7), (5, 12), (1, 6), (9, 2)])
def test_vin_finds_the_fixed_point_of_its_equation(h, w):
    network, mazes = random_vin(), reference.random_mazes(10, h, w)
    p = reference.conv_success(network, mazes.walls).double().numpy()
    plan = network.plan(mazes)
    q = network(mazes, plan).detach()
    for i, goal in enumerate(mazes.goal.tolist()):
        slow_u, slow_q = reference.fixed_point(p[..., i], network.reward.item(), goal, network.gamma)
        assert np.abs(plan[0][..., i].numpy() - slow_u).max() < 1e-5
        assert np.abs(q[..., i].numpy() - slow_q).max() < 1e-5


def test_vin_success_is_a_convolution_of_the_window():
    network = random_vin()
    walls = torch.rand(7, 9, 20, generator=seeded()) < 0.5
    rim = np.pad(walls.numpy(), [(1, 1), (1, 1), (0, 0)], constant_values=True)
    windows = sum((1 << 3 * y + x) * rim[y:y + 7, x:x + 9].astype(int) for y in range(3) for x in range(3))
    assert network.success().shape == (4, 512)
    p = network.success().detach()
    assert (p == 0).any() and (p == 1).any() and ((p > 0) & (p < 1)).any()
    looked_up = network.success().detach()[:, torch.from_numpy(windows)]
    assert (looked_up - reference.conv_success(network, walls)).abs().max() < 1e-6


@pytest.mark.parametrize("h, w", [(16, 16), (4, 21), (1, 5)])
def test_vin_that_knows_walls_has_the_optimal_q(h, w):
    network, mazes = reference.make_exact(build("vin", gamma=0.99)), reference.random_mazes(30, h, w)
    q = network(mazes).detach()
    exact = maze.optimal_q(mazes, maze.distances(mazes.walls, mazes.goal), 0.99)
    assert (q - exact)[:, ~mazes.walls].abs().max() < 1e-5


def test_vin_that_knows_walls_is_exact_along_a_long_corridor():
    walls = torch.from_numpy(reference.serpentine(25))[..., None]
    mazes = maze.Mazes(walls, torch.tensor([0]), torch.tensor([624]))
    q = reference.make_exact(build("vin", gamma=0.99))(mazes).detach()
    exact = maze.optimal_q(mazes, maze.distances(walls, mazes.goal), 0.99)
    assert (q - exact)[:, ~walls].abs().max() < 1e-5


@pytest.mark.parametrize("name, sizes", [("vin", [(8, 8), (3, 14), (21, 5)]), ("cnn", [(8, 8), (3, 14), (21, 5)]),
                                         ("mlp", [(8, 8)])])
def test_network_gives_q_for_every_cell_and_action_whatever_else_is_in_the_batch(name, sizes):
    network = build(name)
    for h, w in sizes:
        mazes = reference.random_mazes(9, h, w)
        plan = network.plan(mazes)
        q = network(mazes, plan)
        assert q.shape == (4, h, w, 9) and q.requires_grad and q.isfinite().all()
        assert torch.allclose(network(mazes), q)
        part = torch.tensor([7, 2, 2])
        assert torch.allclose(network(mazes.select(part), [x[..., part] for x in plan]), q[..., part], atol=1e-6)
        assert torch.allclose(network(mazes.select(part)), q[..., part], atol=1e-6)


@pytest.mark.parametrize("name", ["vin", "cnn", "mlp"])
def test_network_looks_at_walls_and_goal(name):
    network, mazes = build(name, width=32), reference.random_mazes(20, 8, 8, share=0.2)
    q = network(mazes)
    assert not torch.allclose(network(mazes._replace(walls=mazes.walls.flip(0))), q)
    assert not torch.allclose(network(mazes._replace(goal=mazes.goal.flip(0))), q)
    assert torch.equal(network(mazes._replace(start=mazes.goal)), q)


@pytest.mark.parametrize("cell", [0, 15, 8 * 16 + 7])
def test_cnn_sees_the_whole_maze_from_every_cell(cell):
    network = build("cnn", 16, 0)
    one = torch.zeros(256, 1, dtype=torch.bool)
    walls = torch.cat([one, one ^ torch.eye(256, dtype=torch.bool)], 1).view(16, 16, 257)
    here = torch.full((257,), cell)
    with torch.no_grad():
        q = network(maze.Mazes(walls, here, here)).flatten(1, 2)[:, cell]
    assert (q[:, 1:] != q[:, :1]).any(0).all()


def test_cnn_and_mlp_tell_where_in_the_maze_they_are():
    """An open hall looks the same around every inner cell."""
    mazes = maze.Mazes(torch.zeros(12, 12, 1, dtype=torch.bool), torch.tensor([6 * 12 + 6]), torch.tensor([0]))
    for name in ("cnn", "mlp"):
        q = build(name, grid=12)(mazes).flatten(1)
        assert len(torch.unique(q, dim=1).t()) > 100


@pytest.mark.parametrize("name", ["vin", "cnn", "mlp"])
def test_gradient_reaches_every_weight(name):
    network, mazes = build(name), reference.random_mazes(60, 8, 8)
    network(mazes).pow(2).sum().backward()
    assert all(weights.grad is not None and weights.grad.abs().sum() > 0 for weights in network.parameters())


# Targets


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 16, 33])
def test_q_lambda_targets_are_those_of_the_definition(lam, steps):
    draws = torch.rand(4, steps, 30, generator=seeded(steps))
    reward, done, value, greedy = draws[0], draws[1] < 0.1, draws[2], draws[3] < 0.8
    fast = model.q_lambda_targets(reward, done, value, greedy, 0.9, lam)
    for b in range(30):
        columns = [x[:, b].double().tolist() for x in (reward, done, value, greedy)]
        assert fast[:, b].tolist() == pytest.approx(reference.lambda_targets(*columns, 0.9, lam), abs=1e-5)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("double", [True, False])
def test_td_error_is_q_minus_the_slow_target(lam, double):
    episodes, q = random_episodes()
    late = torch.rand(q.shape, generator=seeded(5)) * 1.2 - 0.3
    q, late = model.along(q, episodes.cells), model.along(late, episodes.cells)
    error, alive = model.td_error(q, late, episodes, 0.9, lam, double)
    taken = torch.stack([q[episodes.actions[:, b], torch.arange(12), b] for b in range(40)], 1)
    slow = taken - reference.td_targets(q, late, episodes, 0.9, lam, double)
    assert (error - slow)[alive].abs().max() < 1e-5


def test_steps_count_until_the_goal_is_reached():
    episodes, q = random_episodes()
    q = model.along(q, episodes.cells)
    alive = model.td_error(q, q, episodes, 0.9, 0.5, True)[1]
    for b, goal in enumerate(episodes.mazes.goal.tolist()):
        cells = episodes.cells[:, b].tolist()
        length = cells.index(goal) if goal in cells else len(cells) - 1
        assert alive[:, b].tolist() == [t < length for t in range(len(cells) - 1)]


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_running_out_of_time_bootstraps_and_reaching_the_goal_does_not(lam):
    mazes = reference.corridor(9, 0, 5)
    q = torch.zeros(4, 1, 9, 1)
    q[3] = 0.5
    for steps, last_target in ((4, 0.9 * 0.5), (5, 1.0), (8, 1.0)):
        episodes = main.rollout(mazes, q, steps)
        along = model.along(q, episodes.cells)
        error, alive = model.td_error(along, along, episodes, 0.9, lam, True)
        target = (0.5 - error)[alive]
        assert len(target) == min(steps, 5)
        assert target[-1] == pytest.approx(last_target, abs=1e-7)


def test_targets_carry_no_gradient():
    episodes, q = random_episodes()
    online, late = q.clone().requires_grad_(), q.clone().requires_grad_()
    along = [model.along(x, episodes.cells) for x in (online, late)]
    error, alive = model.td_error(*along, episodes, 0.9, 0.5, True)
    (error * alive).sum().backward()
    assert late.grad is None
    assert online.grad.sum() == alive.sum()


def test_along_reads_q_in_the_visited_cells():
    episodes, q = random_episodes()
    along = model.along(q, episodes.cells)
    assert along.shape == (4, 13, 40)
    for t, b in np.ndindex(13, 40):
        y, x = divmod(int(episodes.cells[t, b]), 6)
        assert torch.equal(along[:, t, b], q[:, y, x, b])


def test_select_picks_whole_episodes():
    episodes, _ = random_episodes()
    part = episodes.select(torch.tensor([3, 0, 3]))
    for place, b in enumerate((3, 0, 3)):
        assert torch.equal(part.cells[:, place], episodes.cells[:, b])
        assert torch.equal(part.actions[:, place], episodes.actions[:, b])
        assert torch.equal(part.mazes.walls[..., place], episodes.mazes.walls[..., b])
        assert part.mazes.goal[place] == episodes.mazes.goal[b]


# Replay


def numbered(first, n, grid=7, steps=5):
    """n episodes of random content, which differ from one another in their first two cells."""
    generator = seeded(first)
    mazes = reference.random_mazes(n, grid, grid, seed=first)
    cells = torch.randint(grid * grid, (steps + 1, n), generator=generator)
    number = torch.arange(first, first + n)
    cells[0], cells[1] = number // (grid * grid), number % (grid * grid)
    return model.Episodes(mazes._replace(start=cells[0]), cells, torch.randint(4, (steps, n), generator=generator))


def numbers(episodes):
    return (episodes.cells[0] * 49 + episodes.cells[1]).tolist()


@pytest.mark.parametrize("sizes", [[20, 20, 20], [50, 1], [30, 30, 30, 30], [7] * 16])
def test_replay_keeps_the_newest_episodes_as_they_were(sizes):
    replay, added, first = model.Replay(50, 7, 5, "cpu"), {}, 0
    for n in sizes:
        episodes = numbered(first, n)
        replay.add(episodes)
        added |= {first + i: episodes.select(torch.tensor([i])) for i in range(n)}
        first += n
        sample = replay.sample(1500, seeded())
        assert set(numbers(sample)) == set(range(max(0, first - 50), first))
    for i, number in enumerate(numbers(sample)):
        one = added[number]
        assert torch.equal(sample.cells[:, i], one.cells[:, 0]) and torch.equal(sample.actions[:, i], one.actions[:, 0])
        assert torch.equal(sample.mazes.walls[..., i], one.mazes.walls[..., 0])
        assert sample.mazes.goal[i] == one.mazes.goal[0] and sample.mazes.start[i] == one.mazes.start[0]
    assert all(x.dtype == torch.int64 for x in (sample.cells, sample.actions, sample.mazes.goal, sample.mazes.start))


@pytest.mark.parametrize("n", [30, 80])
def test_replay_samples_uniformly(n):
    replay = model.Replay(50, 7, 5, "cpu")
    for first in range(0, n, 10):
        replay.add(numbered(first, 10))
    drawn = np.unique(numbers(replay.sample(50_000, seeded())), return_counts=True)[1]
    assert len(drawn) == min(n, 50)
    assert chisquare(drawn).pvalue > 1e-6


def test_replay_of_large_mazes_keeps_large_cells():
    replay = model.Replay(4, 256, 2, "cpu")
    cells = torch.tensor([[65_535, 40_000], [65_534, 32_768], [0, 1]])
    mazes = maze.Mazes(torch.zeros(256, 256, 2, dtype=torch.bool), cells[0], cells[0])
    replay.add(model.Episodes(mazes, cells, torch.zeros(2, 2, dtype=torch.int64)))
    sample = replay.sample(20, seeded())
    assert set(map(tuple, sample.cells.t().tolist())) == set(map(tuple, cells.t().tolist()))
    assert torch.equal(sample.mazes.goal, sample.cells[0])


# Checkpoints


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("name", ["vin", "cnn", "mlp"])
def test_checkpoint_brings_back_the_same_network(path, name):
    network, mazes = build(name, gamma=0.95), reference.random_mazes(10, 8, 8)
    settings = main.config() | dict(MODEL=name, GRID=8, WIDTH=6, GAMMA=0.95)
    model.save_checkpoint(path, network, settings)
    loaded, config = model.load_checkpoint(path, "cpu")
    assert config == settings
    assert torch.equal(loaded(mazes), network(mazes))
    assert os.listdir(os.path.dirname(path)) == ["checkpoint.pt"]


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("wrap", [lambda trap: trap, lambda trap: [trap], lambda trap: dict(format=1, config=trap, weights={})])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write", [torch.save, lambda content, path: open(path, "wb").write(pickle.dumps(content))])
def test_checkpoint_with_code_in_it_is_refused_and_the_code_not_run(path, wrap, write):
    write(wrap(Trap(path + ".sprung")), path)
    with pytest.raises(UserError, match="is not a checkpoint"):
        model.load_checkpoint(path, "cpu")
    assert not os.path.exists(path + ".sprung")
    pickle.loads(pickle.dumps(Trap(path + ".sprung")))
    assert os.path.exists(path + ".sprung")


def test_cut_off_checkpoint_is_refused(path):
    model.save_checkpoint(path, build("vin"), main.config() | dict(MODEL="vin", WIDTH=6))
    whole = open(path, "rb").read()
    for keep in range(0, len(whole), 41):
        with open(path, "wb") as file:
            file.write(whole[:keep])
        with pytest.raises(UserError, match="is not a checkpoint"):
            model.load_checkpoint(path, "cpu")


GARBAGE = [b"", b"P", b"PK\x03\x04", b"PK\x05\x06", b"hello\n", b"\x80\x02.", b"\x80\x02K\x01Q.", b"X\x01", b"\x80\x02X\x01",
           b"\x80\x02J\x01.", b"G\x00.", b"\x89PNG\r\n\x1a\n" + bytes(90), bytes(1000), bytes(range(256))]


@pytest.mark.parametrize("content", GARBAGE)
def test_file_that_is_no_checkpoint_is_refused(path, content):
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match="is not a checkpoint"):
        model.load_checkpoint(path, "cpu")


CONFIG = main.config() | dict(MODEL="vin", GRID=8, WIDTH=6)
FOREIGN = [None, 3, [], {}, "text", torch.ones(3), dict(format=1), dict(format=1, config={}),
           *[dict(format=1, config=CONFIG, weights=weights)
             for weights in (None, {}, dict(a=1), build("cnn").state_dict(), build("vin", width=7).state_dict())],
           *[dict(format=1, config=config, weights=build("vin").state_dict())
             for config in ([], CONFIG | dict(MODEL="none"), *[CONFIG | dict(WIDTH=width) for width in (-3, "wide", 10 ** 12)])]]


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
@pytest.mark.filterwarnings("ignore")
def test_foreign_torch_file_is_refused(path, content):
    torch.save(content, path)
    with pytest.raises(UserError, match="is not a checkpoint"):
        model.load_checkpoint(path, "cpu")


def test_checkpoint_of_another_format_says_so(path, monkeypatch):
    model.save_checkpoint(path, build("vin"), CONFIG)
    monkeypatch.setattr(model, "CHECKPOINT_FORMAT", model.CHECKPOINT_FORMAT + 1)
    with pytest.raises(UserError, match="format 1.*train again"):
        model.load_checkpoint(path, "cpu")


def test_missing_checkpoint_says_how_to_get_one(path):
    with pytest.raises(UserError, match="no checkpoint .*checkpoint.pt.*python main.py"):
        model.load_checkpoint(path, "cpu")
