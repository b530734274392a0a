"""Walks through the mazes of a file, as text and as a picture."""

import os

import numpy as np
import torch

import maze
from maze import Mazes
from support import pictures


def solve(texts, network, device, rollout, picture):
    """Walks each of these FileMazes; prints the walks, and draws a few into the file `picture`.

    rollout: main's.
    """
    walks = {}
    for shape in sorted({text.walls.shape for text in texts}):  # mazes of one size, side by side
        numbers = [number for number, text in enumerate(texts) if text.walls.shape == shape]
        mazes = stack([texts[number] for number in numbers], device)
        steps = int((~mazes.walls).sum((0, 1)).max())  # more than a shortest path can have
        episodes, thoughts = rollout(network, mazes, steps)
        cells, distance = episodes.cells.cpu(), maze.distances(mazes.walls, mazes.goal)
        shortest = maze.shortest(mazes, distance).tolist()
        for column, number in enumerate(numbers):
            walks[number] = cells[:, column], shortest[column]
        if 0 in numbers and network.whole_maze:
            few, distance, away = mazes.select(slice(5)), distance[..., :5], thoughts.q_steps()
            os.makedirs(os.path.dirname(picture) or ".", exist_ok=True)
            farthest = max(1, int(distance.max()))
            pictures.walks(picture, few, cells[:, :5], away[..., :5], distance, farthest)
    print_walks(texts, walks)


def stack(texts, device="cpu"):
    """FileMazes of one size, as `Mazes`."""
    walls = torch.from_numpy(np.stack([text.walls for text in texts], -1)).to(device)
    goal, start = torch.tensor([[text.goal, text.start] for text in texts], device=device).unbind(1)
    return Mazes(walls, goal, start)


def draw(text, cells=()):
    """A FileMaze as text, the walked cells as `*`."""
    letters = np.where(text.walls, "#", ".")
    letters.flat[list(cells)] = "*"
    letters.flat[text.start], letters.flat[text.goal] = "S", "G"
    return "\n".join("".join(row) for row in letters)


def print_walks(texts, walks):
    """Prints each maze with its walk and a verdict, then the sum.

    walks: for each maze, the cells of the walk (T + 1,), and the length of a shortest one, -1 if
    there is none.
    """
    solved = optimal = 0
    for number, text in enumerate(texts, 1):
        cells, shortest = walks[number - 1]
        limit = int((~text.walls).sum())
        taken = int((cells[: limit + 1] != text.goal).sum())
        print(draw(text, cells[: taken + 1].tolist()))
        if shortest < 0:
            print(f"maze {number}: unreachable\n")
        elif taken <= limit:
            solved, optimal = solved + 1, optimal + (taken == shortest)
            print(f"maze {number}: solved in {taken} steps (shortest {shortest})\n")
        else:
            print(f"maze {number}: not solved in {limit} steps (shortest {shortest})\n")
    print(f"solved {solved} of {len(texts)}, by a shortest path {optimal}")
