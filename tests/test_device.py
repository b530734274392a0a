"""The program on a pretend CUDA device: it mixes no devices, seldom waits, and ends as on the CPU,
bit for bit."""

import copy

import pretend
import pytest
import torch
from test_runs import RETURNS, differences, runs, summary_of

import main
import maze
from support.learning import Adam

AGENTS = [
    "MODEL=mlp CURRICULUM=linear GOAL=corner",
    "MODEL=cnn LOOKS=9 REPLAY=uniform REPLAY_SIZE=40",
    "THINK=False MODEL=cnn TARGET_SYNCS=1",
    "THINK=False MODEL=attention CREDIT=step UNIT=q DOUBLE=True",
    f"VISION=1 MEMORY=trail SHAPING=manhattan NOVELTY=0.1 DOUBLE=True {RETURNS}",
    f"VISION=1 MEMORY=gru REPLAY=prioritized REPLAY_SIZE=40 SHAPING=oracle {RETURNS}",
    "VISION=1 MEMORY=map MAX_EP_LENGTH=6",
]
WAITS = "nonzero", "masked_select", "equal", "to the CPU", "unique"
WAITS += "item", "tolist", "__bool__", "__int__", "__float__", "__index__"


@pytest.mark.parametrize("agent", AGENTS)
def test_it_trains_solves_and_proves_on_the_device_as_on_the_cpu(tmp_path, capsys, agent):
    mazes = tmp_path / "mazes.txt"
    mazes.write_text("S...\n.##.\n...G\n\n#####\n#S.G#\n\nS#G\n.#.\n")
    folders, said = [tmp_path / "there", tmp_path / "here"], []
    for folder, device in zip(folders, ("auto", "cpu")):
        with pretend.cuda():
            settings = *agent.split(), "WIDTH=4", "NUM_EPISODES=64", f"DEVICE={device}"
            assert runs(folder, *settings, "NUM_EPISODES=32") == 0
            assert runs(folder, *settings, "RESUME=True") == 0
            capsys.readouterr()
            where = f"OUT_DIR={folder}", f"DEVICE={device}"
            statuses = [main.main([*verb, *where]) for verb in (["solve", str(mazes)], ["prove"])]
            said.append((statuses, capsys.readouterr()))
    assert not differences(*folders) and said[0] == said[1]
    for name in "rollouts.png", "agent.gif":
        there, here = ((folder / name).read_bytes() for folder in folders)
        assert there == here
    assert [summary_of(folder)["device"] for folder in folders] == ["cuda:0", "cpu"]


def test_neither_a_step_of_an_episode_nor_of_the_gradient_waits_for_the_device():
    vars(main).update(WIDTH=4, GRID=8, MAX_EP_LENGTH=10)
    with pretend.cuda() as gpu:
        generator, network = torch.Generator("cuda"), main.build(main.config()).to("cuda").eval()
        packed = maze.make_mazes(16, 8, torch.Generator().manual_seed(0)).to("cuda")
        mazes = maze.draw(packed, 8, 1.0, 9, "random", generator)
        epsilon, counts = torch.ones(16, device="cuda"), set()
        both = network, copy.deepcopy(network)
        learner = main.Learner(*both, Adam(network.parameters(), 0.0), None, generator)
        for steps, main.UPDATES in (10, 2), (40, 2), (40, 16):
            gpu.calls.clear()
            episodes, _ = main.rollout(network, mazes, steps, epsilon, generator)
            main.learn(learner, episodes, 0.0)
            counts.add(sum(gpu.calls[name] for name in WAITS))
    assert len(counts) == 1 and min(counts) > 0, counts
