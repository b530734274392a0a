"""The world: mazes, what a move does in them, and the exact answers to hold the agent against.

Conventions, the same in all three modules:

- The batch is the LAST axis: walls are (H, W, B), Q-values (4, H, W, B). One cell of all mazes is
  then one piece of memory. A maze's place in its batch is called its lane.
- A cell is one number, y * W + x. Actions are 0..3 = up, down, left, right. Outside is wall.
"""

import itertools
import json
import math
import os
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

CACHE_FORMAT = 4


class Mazes(NamedTuple):
    """A batch of B mazes of one size, each with a goal and a start.

    walls (H, W, B) bool; goal (B,) int64 cell; start (B,) int64 cell.
    """

    walls: torch.Tensor
    goal: torch.Tensor
    start: torch.Tensor

    def to(self, device):
        return Mazes(*(x.to(device) for x in self))

    def select(self, index):
        """The mazes at `index`: a slice or a (N,) int64 tensor."""
        return Mazes(self.walls[..., index], self.goal[index], self.start[index])


# --------------------------------------------------------------------------------------------------
# Generation


@torch.inference_mode()  # its calls cost a fifth less
def carve(n: int, grid: int, generator: torch.Generator, device="cpu") -> torch.Tensor:
    """n perfect mazes by randomized depth-first search, all at once: walls (grid, grid, n) bool.

    Rooms sit at even coordinates. In each maze a walker starts in a random room, and then:

        for each of the 2 * (rooms - 1) moves:
            free = the neighbouring rooms that nobody has visited
            if free: open the wall to a random one of them, go there, push it on the stack
            else: pop the stack and climb back to the room that is now on its top

    All walkers are home after the same number of moves, so that no maze waits for another.
    """
    side = (grid + 1) // 2
    width = 2 * side + 3  # with a rim of visited rooms, so that no move needs a bounds check
    moves = 2 * (side * side - 1)
    lane = torch.arange(n, device=device)
    steps = [-2 * width * n, 2 * width * n, -2 * n, 2 * n]  # up, down, left, right, by a room
    step = torch.tensor(steps, device=device)[:, None]

    # Which of the four neighbours are free, as bits, and a throw of a twelve-sided die (fair among
    # 1, 2, 3 or 4) say where to go; 0 means: climb back.
    free_steps = [[there for a, there in enumerate(steps) if bits >> a & 1] for bits in range(16)]
    enter = [
        there[throw % len(there)] if there else 0 for there in free_steps for throw in range(12)
    ]
    enter = torch.tensor(enter, device=device)
    climb = torch.where(enter != 0, n, -n)
    die = torch.randint(12, (moves, n), dtype=torch.uint8, generator=generator, device=device)

    fresh = torch.zeros(width, width, n, dtype=torch.uint8, device=device)
    fresh[2:-2:2, 2:-2:2] = 1  # rooms that nobody has visited
    fresh = fresh.view(-1)
    root = torch.randint(side * side, (n,), generator=generator, device=device)
    path = torch.empty(moves + 1, n, dtype=torch.int64, device=device)  # places: cell * n + lane
    path[0] = ((root // side + 1) * 2 * width + (root % side + 1) * 2) * n + lane
    stack = torch.empty(side * side + 1, n, dtype=torch.int64, device=device)
    stack[0] = path[0]
    stack, above, top = stack.view(-1), stack[1:].view(-1), lane.clone()
    fresh.index_fill_(0, path[0], 0)
    for here, there, throw in zip(path[:-1], path[1:], die):
        free = fresh.index_select(0, (here + step).view(-1)).view(4, n)
        pairs = torch.add(free[:2], free[2:], alpha=4)
        bits = torch.add(pairs[0], pairs[1], alpha=2)
        key = torch.add(throw, bits, alpha=12).int()
        above.index_copy_(0, top, here + enter.index_select(0, key))  # not read after climbing back
        top += climb.index_select(0, key)
        torch.index_select(stack, 0, top, out=there)
        fresh.index_fill_(0, there, 0)

    walls = torch.ones(width, width, n, dtype=torch.bool, device=device)
    walls[2:-2:2, 2:-2:2] = False
    between = (path[1:] + path[:-1]) // 2  # the walls between two rooms
    walls.view(-1).index_fill_(0, between.view(-1), False)
    return walls[2 : 2 + grid, 2 : 2 + grid]


def make_mazes(n: int, grid: int, generator, device="cpu", chunk=4096) -> torch.Tensor:
    """n perfect mazes, bit-packed: (ceil(grid * grid / 8), n) uint8. A chunk fits a CPU's cache."""
    sizes = [min(chunk, n - i) for i in range(0, n, chunk)]
    return torch.cat([pack(carve(size, grid, generator, device)) for size in sizes], 1)


def pack(walls):
    """Eight cells to a byte: walls (H, W, B) bool -> (ceil(H * W / 8), B) uint8."""
    cells = walls.flatten(0, 1)
    cells = F.pad(cells.to(torch.uint8), (0, 0, 0, -len(cells) % 8)).unflatten(0, (-1, 8))
    return sum(cells[:, i] * 2**i for i in range(8))


def unpack(packed, height, width):
    """The inverse of pack: (bytes, B) uint8 -> walls (H, W, B) bool."""
    bit = torch.tensor([2**i for i in range(8)], dtype=torch.uint8, device=packed.device)
    cells = (packed[:, None] & bit[:, None]).bool().flatten(0, 1)
    return cells[: height * width].unflatten(0, (height, width))


# --------------------------------------------------------------------------------------------------
# The cache, and the mazes held out from it


def load_cache(path, n: int, grid: int, seed: int, device="cpu", say=print) -> torch.Tensor:
    """The n training mazes, bit-packed as by `make_mazes`.

    They are read from `path` when its settings match, else made and saved; on the CPU, so that they
    are the same ones whatever the device.
    """
    settings = json.dumps(dict(format=CACHE_FORMAT, mazes=n, grid=grid, seed=seed))
    shape, why = (math.ceil(grid * grid / 8), n), "there is none yet"
    if os.path.exists(path):
        try:
            with np.load(path, allow_pickle=False) as file:  # zip's checksum finds any damage
                stored, packed = str(file["settings"]), file["packed"]
            if (stored, packed.shape, packed.dtype) == (settings, shape, np.uint8):
                return torch.from_numpy(packed).to(device)
            why = f"{path} has other settings: {stored}"
        except Exception as error:  # a damaged file can make the reader raise anything
            why = f"{path} cannot be read: {type(error).__name__}"
    say(f"making {n:,} mazes of {grid}x{grid} ({why})")
    packed = make_mazes(n, grid, torch.Generator().manual_seed(seed))
    with replacing(path) as beside, open(beside, "wb") as file:
        np.savez(file, settings=settings, packed=packed.numpy())
    return packed.to(device)


@contextmanager
def replacing(path):
    """Gives a path to write to, and renames it to `path` when it is whole."""
    beside = f"{path}.{os.getpid()}.part"
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        error.filename = path  # a disk that is full does not say whose file it was
        raise
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def held_out(n: int, grid: int, seed: int, cache, device="cpu", say=print) -> torch.Tensor:
    """n mazes from their own seed, bit-packed; one that is also in the `cache` is made anew.

    A small grid may not have enough different mazes for that: then some are shared, and it says so.
    """
    generator = torch.Generator().manual_seed(seed)
    packed, known = make_mazes(n, grid, generator), set(fingerprints(cache))
    for attempt in range(8):
        shared = [i for i, maze in enumerate(fingerprints(packed)) if maze in known]
        if not shared or attempt == 7:
            break
        packed[:, shared] = make_mazes(len(shared), grid, generator)
    if shared:
        found = f"{len(shared):,} of {n:,} held-out mazes are also training mazes"
        say(f"GRID={grid} has too few different mazes: {found}")
    return packed.to(device)


def fingerprints(packed):
    """The bytes of each maze of a bit-packed batch, to be compared."""
    return [maze.tobytes() for maze in packed.cpu().numpy().T]


# --------------------------------------------------------------------------------------------------
# Drawing a batch: difficulty, goals and starts


def draw(packed, grid: int, difficulty, max_start_distance: int, goal: str, generator) -> Mazes:
    """B of the bit-packed mazes, each with some of its walls, a goal and a start.

    packed (bytes, B) uint8. difficulty: the share of walls kept, a number or (B,), 0..1. goal:
    "random", any open cell that has an open neighbour, or "corner", the bottom-right room. start: a
    random open cell from which the goal can be reached in 1..max_start_distance steps.
    """
    walls = unpack(packed, grid, grid)
    share = torch.as_tensor(difficulty, device=walls.device)
    walls &= uniform(walls.shape, generator) < share
    if goal == "corner":
        corner = (grid - 1) // 2 * 2
        goal = torch.full((walls.shape[2],), corner * grid + corner, device=walls.device)
    else:
        up, down, left, right = neighbours(walls, True)
        goal = choose(~(walls | up & down & left & right), generator)
    return Mazes(walls, goal, choose(within(walls, goal, max_start_distance), generator))


def uniform(shape, generator) -> torch.Tensor:
    """Random numbers, over 0 and under 1, in steps of 2^-16: four for the price of one."""
    n, device = math.prod(shape), generator.device
    if device.type == "mps":  # its random numbers have 32 bits
        whole = torch.randint(-(2**15), 2**15, shape, generator=generator, device=device)
    else:
        four = torch.empty(math.ceil(n / 4), dtype=torch.int64, device=device)
        whole = four.random_(-(2**63), None, generator=generator).view(torch.int16)[:n].view(shape)
    return (whole.float() + (2**15 + 0.5)) / 2**16


def choose(mask, generator) -> torch.Tensor:
    """A random cell where mask (H, W, B) is true: (B,) int64. Each maze must have one."""
    h, w, b = mask.shape
    # The row first, then the cell in it: to add up all cells takes many times longer.
    in_rows = mask.sum(1, dtype=torch.int32).cumsum(0)
    nth = (torch.rand(b, generator=generator, device=mask.device) * in_rows[-1]).int()
    y = (in_rows <= nth).sum(0)
    row = mask.gather(0, y.expand(1, w, b))[0]
    nth = nth - in_rows.gather(0, y[None])[0] + row.sum(0)
    return y * w + (row.cumsum(0) <= nth).sum(0)


def neighbours(x, outside) -> torch.Tensor:
    """x (H, W, B) above, below, left and right of each cell, be it a wall or not: (4, H, W, B)."""
    rim = padded(x, 1, outside)
    return torch.stack([rim[:-2, 1:-1], rim[2:, 1:-1], rim[1:-1, :-2], rim[1:-1, 2:]])


def padded(x, radius: int, outside) -> torch.Tensor:
    """x (H, W, B) with a rim of `radius` cells of the value `outside`, all around."""
    h, w, b = x.shape
    rim = x.new_full((h + 2 * radius, w + 2 * radius, b), outside)
    rim[radius : radius + h, radius : radius + w] = x
    return rim


def in_padded(cells, w: int, radius: int) -> torch.Tensor:
    """`cells` of a maze w wide, as cells of it `padded`."""
    y = cells.div(w, rounding_mode="floor")
    return cells + y * (2 * radius) + radius * (w + 2 * radius + 1)


# --------------------------------------------------------------------------------------------------
# Moving


def move_table(mazes: Mazes, q=None):
    """Where each action leads, for walking by look-up: (table, greedy).

    table (H * W * 5 * B,): entry (cell * 5 + action) * B + b is the cell to which the action leads
    in maze b; action 4 is the greedy one of q (4, H, W, B), where it is given. A wall leaves the
    agent where it is, and from the goal nothing leads away. greedy (H, W, B) uint8: the greedy
    action itself, or None.
    """
    (h, w, b), device = mazes.walls.shape, mazes.walls.device
    kind = torch.int32 if h * w * 5 * b < 2**31 else torch.int64  # 32 bits are faster
    cell = torch.arange(h * w, dtype=kind, device=device).view(h, w, 1)
    is_open = ~neighbours(mazes.walls, True)
    table = torch.empty(h * w, 5, b, dtype=kind, device=device)
    for action, offset in enumerate((-w, w, -1, 1)):
        there = table.view(h, w, 5, b)[:, :, action]
        torch.add(cell, is_open[action], alpha=offset, out=there)
    greedy = None if q is None else best_action(q)
    if q is not None:
        best = greedy.flatten(0, 1)[:, None].long()
        torch.gather(table[:, :4], 1, best, out=table[:, 4:])
    table[mazes.goal, :, torch.arange(b, device=device)] = mazes.goal.to(kind)[:, None]
    return table.view(-1), greedy


def best_action(q) -> torch.Tensor:
    """argmax of q (4, ...) over the actions: (...) uint8. Many times faster than torch's argmax."""
    vertical = (q[1] > q[0]).to(torch.uint8)  # up or down
    horizontal = (q[3] > q[2]).to(torch.uint8) + 2  # left or right
    sideways = torch.maximum(q[2], q[3]) > torch.maximum(q[0], q[1])
    return vertical + sideways * (horizontal - vertical)


def walk(table, start, choices, react=None) -> torch.Tensor:
    """The cells on each way from start (B,): (T + 1, B) int64, one look-up in `table` a step.

    choices (T, B): 0..3, or 4 for the greedy action: the table's, or what react(cells (B,))
    answers, which then takes the 4's place in `choices`.
    """
    t, b = choices.shape
    lane = torch.arange(b, dtype=table.dtype, device=table.device)
    with torch.inference_mode(react is None):
        cells = torch.empty(t + 1, b, dtype=table.dtype, device=table.device)
        cells[0] = start
        entry, cell = torch.empty_like(lane), cells.unbind()
        offset = torch.add(lane, choices, alpha=b).unbind()
        for step, (here, there) in enumerate(zip(cell, cell[1:])):
            if react:
                choices[step] = torch.where(choices[step] == 4, react(here.long()), choices[step])
                torch.add(lane, choices[step], alpha=b, out=offset[step])
            torch.add(offset[step], here, alpha=5 * b, out=entry)
            torch.index_select(table, 0, entry, out=there)
    return cells.long()


# --------------------------------------------------------------------------------------------------
# The exact answers


def waves(walls, goal):
    """Breadth-first search in all mazes at once, 64 of them to a machine word.

    Yields, as bits, which cells are more than 0, 1, 2, ... steps from the goal, until these are the
    cells that can't reach it. For one maze, and cells as sets, that is

        far = all cells but the goal
        while far shrinks: yield far; far = {cell in far: a wall, or all its neighbours are in far}

    (H * (W + 1), ceil(B / 64)) int64: the same tensor, overwritten by the next wave; `from_waves`
    reads it. Whether they still shrink is asked every 16 steps, so that the last wave is repeated.
    """
    h, w, b = walls.shape
    line = w + 1  # each row ends with a wall, which is also the one before the next row
    wall = torch.ones((h + 2) * line + 1, b, dtype=torch.bool, device=walls.device)
    wall[line : -line - 1].view(h, line, b)[:, :w] = walls
    goal = goal + goal.div(w, rounding_mode="floor") + line
    far = to_bits(torch.ones_like(wall).scatter_(0, goal[None], False))
    wall, end = to_bits(wall)[line : -line - 1], len(far) - line - 1
    here, up, down, left, right = (far[line + i : end + i] for i in (0, -line, line, -1, 1))
    near, before = torch.empty_like(here), here.clone()
    for step in range(h * w):
        yield here
        torch.bitwise_and(up, down, out=near)
        torch.bitwise_and(near, left, out=near)
        torch.bitwise_and(near, right, out=near)
        torch.bitwise_or(near, wall, out=near)
        torch.bitwise_and(here, near, out=here)
        if step % 16 == 15:
            if torch.equal(here, before):
                break
            before.copy_(here)


def to_bits(x) -> torch.Tensor:
    """64 mazes to a word: x (N, B) bool -> (N, ceil(B / 64)) int64."""
    x = F.pad(x.to(torch.uint8), (0, -x.shape[1] % 64)).view(torch.int64)
    bits = x * 0x0102040810204080  # eight bytes, each 0 or 1, become the bits of the last of them
    return bits.view(torch.uint8)[:, 7::8].contiguous().view(torch.int64)


def from_waves(far, walls) -> torch.Tensor:
    """What `waves` yielded, as cells of the mazes: (H, W, B) uint8, 0 or 1."""
    h, w, b = walls.shape
    byte = torch.arange(256, dtype=torch.uint8, device=far.device)
    bits = unpack(byte[None], 1, 8)[0].t().contiguous().view(torch.int64)[:, 0]  # of each byte
    x = bits.index_select(0, far.view(torch.uint8).flatten().int()).view(torch.uint8)
    return x.view(h, w + 1, -1)[:, :w, :b]


def within(walls, goal, most: int) -> torch.Tensor:
    """Where a shortest path to the goal has 1..most steps: (H, W, B) bool."""
    *_, far = itertools.islice(waves(walls, goal), most + 1)
    near = from_waves(far, walls).eq(0).flatten(0, 1)
    return near.scatter_(0, goal[None], False).view_as(walls)


def distances(walls, goal) -> torch.Tensor:
    """Steps from each cell to the goal by a shortest path, or -1: (H, W, B) int32."""
    digits = []  # of the distances, in base 2
    for step, far in enumerate(waves(walls, goal), 1):
        if step == 1 << len(digits):
            digits.append(torch.zeros_like(far))
        # A cell d steps away is far in the waves 1, 2, ..., d, and counts them in base 2: with wave
        # `step` digit i flips if 2^i divides it, as when counting from step - 1 to step.
        for digit in digits[: (step & -step).bit_length()]:
            digit ^= far
    distance = sum(from_waves(digit, walls).int() * 2**i for i, digit in enumerate(digits))
    return distance.masked_fill_(from_waves(far, walls).bool(), -1)


def shortest(mazes: Mazes, distance) -> torch.Tensor:
    """Steps on a shortest way from each start, given `distances` (H, W, B): (B,)."""
    return distance.flatten(0, 1).gather(0, mazes.start[None])[0]


def optimal_q(mazes: Mazes, distance, gamma: float) -> torch.Tensor:
    """Q*(s, a) = gamma ** d(s'), where s' is the cell that a leads to: (4, H, W, B).

    0 where the goal can't be reached. distance: as by `distances`.
    """
    value = gamma ** distance.float() * (distance >= 0)
    blocked = neighbours(mazes.walls, True).float()  # a wall leaves the agent where it is
    return torch.lerp(neighbours(value, 0.0), value, blocked)
