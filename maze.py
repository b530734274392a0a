"""The world: mazes, what a move does in them, and the exact answers against which the agent is held.

Conventions, the same in all three modules:

- The batch is the LAST axis: walls are (H, W, B), Q-values (4, H, W, B). All cells of a row or a column then lie in
  one strided slice, and stepping to a neighbour is slicing, without a gather.
- A cell is one number, y * W + x. Actions are 0..3 = up, down, left, right. Outside the grid is wall.
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

CACHE_FORMAT = 3


class UserError(Exception):
    """Something that the user can put right; the message says what was wrong and what would be right."""


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


@contextmanager
def replacing(path):
    """Gives a path beside `path` to write to, and renames it to `path` once it is whole: a reader, or a run that is cut
    off, meets the old file or the new one, never a half."""
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


# --------------------------------------------------------------------------------------------------
# Generation


@torch.inference_mode()  # its calls cost a fifth less
def carve(n, grid, generator, device="cpu"):
    """n perfect mazes by randomized depth-first search, all at once.

    Rooms sit at even coordinates; a walker in each maze enters a random unvisited neighbouring room, or climbs back
    where there is none, until it has come home: 2 * (rooms - 1) moves in every maze, so that no maze waits for another.
    Returns walls, (grid, grid, n) bool.
    """
    side = (grid + 1) // 2
    width = 2 * side + 3  # a rim of two cells, whose rooms count as visited: no move needs a bounds check
    moves = 2 * (side * side - 1)
    lane = torch.arange(n, device=device)
    steps = [-2 * width * n, 2 * width * n, -2 * n, 2 * n]  # from room to room
    step = torch.tensor(steps, device=device)[:, None]

    # The unvisited neighbours are four bits; with a throw of a twelve-sided die they pick the step. 0 means: climb back.
    options = [[there for a, there in enumerate(steps) if free >> a & 1] or [0] for free in range(16)]
    enter = torch.tensor([there[throw % len(there)] for there in options for throw in range(12)], device=device)
    climb = torch.where(enter != 0, n, -n)
    four = torch.cartesian_prod(*[torch.arange(12, dtype=torch.uint8, device=device)] * 4).view(torch.int32)[:, 0]
    die = torch.randint(12 ** 4, (moves // 2 * ((n + 1) // 2),), generator=generator, device=device)
    die = four[die].view(torch.uint8).view(moves, -1)[:, :n]  # a random number costs more than a look-up

    fresh = torch.zeros(width, width, n, dtype=torch.uint8, device=device)
    fresh[2:-2:2, 2:-2:2] = 1
    fresh = fresh.view(-1)
    root = torch.randint(side * side, (n,), generator=generator, device=device)
    path = torch.empty(moves + 1, n, dtype=torch.int64, device=device)  # where each walker was: cell * n + lane
    path[0] = ((root // side + 1) * 2 * width + (root % side + 1) * 2) * n + lane
    stack = torch.empty(side * side + 1, n, dtype=torch.int64, device=device)
    stack[0] = path[0]
    stack, above, top = stack.view(-1), stack[1:].view(-1), lane.clone()

    # Everything is written in place into these: at a thousand mazes an allocation costs as much as the operation.
    around = torch.empty(4, n, dtype=torch.int64, device=device)
    bits = torch.empty(4, n, dtype=torch.uint8, device=device)
    flat_around, flat_bits, low, high, even, odd = around.view(-1), bits.view(-1), bits[:2], bits[2:], bits[0], bits[1]
    key = torch.empty(n, dtype=torch.int32, device=device)
    move = torch.empty(n, dtype=torch.int64, device=device)
    visited = torch.zeros(n, dtype=torch.uint8, device=device)

    fresh.index_copy_(0, path[0], visited)
    for here, there, throw in zip(path[:-1].unbind(), path[1:].unbind(), die.unbind()):
        torch.add(here, step, out=around)
        torch.index_select(fresh, 0, flat_around, out=flat_bits)
        torch.add(low, high, alpha=4, out=low)  # four numbers, each 0 or 1, to one of four bits
        torch.add(even, odd, alpha=2, out=even)
        torch.add(throw, even, alpha=12, out=key)
        torch.index_select(enter, 0, key, out=move)
        torch.add(here, move, out=move)
        above.index_copy_(0, top, move)  # above the top: read three lines on if the move enters, else garbage
        torch.index_select(climb, 0, key, out=move)
        torch.add(top, move, out=top)
        torch.index_select(stack, 0, top, out=there)
        fresh.index_copy_(0, there, visited)

    walls = torch.ones(width, width, n, dtype=torch.bool, device=device)
    walls[2:-2:2, 2:-2:2] = False
    walls.view(-1).index_fill_(0, (path[1:] + path[:-1]).bitwise_right_shift_(1).view(-1), False)  # between two rooms
    return walls[2:2 + grid, 2:2 + grid]


def make_mazes(n, grid, generator, device="cpu", chunk=4096):
    """n perfect mazes, bit-packed: (ceil(grid * grid / 8), n) uint8. Chunks keep the walkers' state in the CPU's cache."""
    return torch.cat([pack(carve(min(chunk, n - i), grid, generator, device)) for i in range(0, n, chunk)], 1)


def pack(walls):
    """Eight cells to a byte: walls (H, W, B) bool -> (ceil(H * W / 8), B) uint8."""
    cells = walls.flatten(0, 1)
    cells = F.pad(cells.to(torch.uint8), (0, 0, 0, -len(cells) % 8)).unflatten(0, (-1, 8))
    return sum(cells[:, i] << i for i in range(8))


def unpack(packed, height, width):
    """The inverse of pack: (bytes, B) uint8 -> walls (H, W, B) bool."""
    bit = torch.arange(8, dtype=torch.uint8, device=packed.device)[:, None]
    cells = (packed[:, None] >> bit & 1).bool().flatten(0, 1)
    return cells[:height * width].unflatten(0, (height, width))


# --------------------------------------------------------------------------------------------------
# The cache, and the mazes held out from it


def load_cache(path, n, grid, seed, device="cpu", say=print):
    """The n training mazes, bit-packed as by `make_mazes`: read from `path` when its settings match,
    else made and saved. They are made on the CPU: the same ones whatever the device."""
    settings = json.dumps(dict(format=CACHE_FORMAT, mazes=n, grid=grid, seed=seed))
    why = "there is none yet"
    if os.path.exists(path):
        try:
            with np.load(path, allow_pickle=False) as file:
                stored, packed = str(file["settings"]), file["packed"]  # a damaged member fails zip's own checksum
            if stored == settings and packed.shape == (math.ceil(grid * grid / 8), n) and packed.dtype == np.uint8:
                return torch.from_numpy(packed).to(device)
            why = f"{path} has other settings: {stored}"
        except Exception as error:  # a damaged file can make the reader raise anything
            why = f"{path} cannot be read: {type(error).__name__}"
    say(f"making {n:,} mazes of {grid}x{grid} ({why})")
    packed = make_mazes(n, grid, torch.Generator().manual_seed(seed))
    with replacing(path) as beside, open(beside, "wb") as file:
        np.savez(file, settings=settings, packed=packed.numpy())
    return packed.to(device)


def held_out(n, grid, seed, cache, device="cpu", say=print):
    """n mazes from their own seed, bit-packed; one that is also in the training `cache` is made anew.

    A small grid may not have enough different mazes for that: then some are shared, and the run says so.
    """
    generator = torch.Generator().manual_seed(seed)
    packed, known = make_mazes(n, grid, generator), set(fingerprints(cache))
    for attempt in range(8):
        shared = [i for i, maze in enumerate(fingerprints(packed)) if maze in known]
        if not shared or attempt == 7:
            break
        packed[:, shared] = make_mazes(len(shared), grid, generator)
    if shared:
        say(f"GRID={grid} has too few different mazes: {len(shared):,} of {n:,} held-out mazes are also training mazes")
    return packed.to(device)


def fingerprints(packed):
    """The bytes of each maze of a bit-packed batch, to be compared."""
    return [maze.tobytes() for maze in packed.cpu().numpy().T]


# --------------------------------------------------------------------------------------------------
# Drawing a batch: difficulty, goals and starts


def draw(packed, grid, difficulty, max_start_distance, goal, generator):
    """B of the bit-packed mazes as `Mazes`, each thinned out and given a goal and a start.

    packed (bytes, B) uint8. difficulty: the share of walls kept, a number or (B,) in [0, 1]. goal: "random", any open
    cell that has an open neighbour, or "corner", the bottom-right room. The start is a random open cell, from which the
    goal can be reached in 1..max_start_distance steps.
    """
    walls = unpack(packed, grid, grid)
    walls &= dice(walls.shape, generator) < torch.as_tensor(difficulty, device=walls.device) * 2 ** 16 - 2 ** 15
    if goal == "corner":
        corner = (grid - 1) // 2 * 2
        goal = torch.full((walls.shape[2],), corner * grid + corner, device=walls.device)
    else:
        up, down, left, right = neighbours(walls, True)
        goal = choose(~(walls | up & down & left & right), generator)
    return Mazes(walls, goal, choose(within(walls, goal, max_start_distance), generator))


def random_walls(n, grid, generator, most=0.7):
    """n `Mazes` of random walls, their share from 0 to `most`: all that a patch can be. The start is the goal."""
    device = generator.device
    share = most * torch.rand(n, generator=generator, device=device)
    walls = torch.rand(grid, grid, n, generator=generator, device=device) < share
    walls[0, 0] = False  # each has an open cell
    goal = choose(~walls, generator)
    return Mazes(walls, goal, goal)


def dice(shape, generator):
    """Random integers from -2 ** 15 to 2 ** 15 - 1, as float32, which compares faster. Four for the price of one random number."""
    n, device = math.prod(shape), generator.device
    if device.type == "mps":  # its random numbers have 32 bits
        return torch.randint(-2 ** 15, 2 ** 15, shape, generator=generator, device=device).float()
    four = torch.empty(-(-n // 4), dtype=torch.int64, device=device).random_(-2 ** 63, None, generator=generator)
    return four.view(torch.int16)[:n].view(shape).float()


def choose(mask, generator):
    """A random cell among those where mask (H, W, B) is true: (B,) int64. Each maze must have one."""
    h, w, b = mask.shape
    in_rows = mask.sum(1, dtype=torch.int32).cumsum(0)
    nth = (torch.rand(b, generator=generator, device=mask.device) * in_rows[-1]).int()
    y = (in_rows <= nth).sum(0)  # the row first, then the cell in it: adding up all cells takes many times longer
    row = mask.gather(0, y.expand(1, w, b))[0]
    nth = nth - in_rows.gather(0, y[None])[0] + row.sum(0)
    return y * w + (row.cumsum(0) <= nth).sum(0)


def neighbours(x, outside):
    """For each cell, the value of x (H, W, B) in the cell that each action leads to: (4, H, W, B)."""
    return ahead(padded(x, 1, outside))


def ahead(rim):
    """The same, given what is `padded` by 1."""
    return torch.stack([rim[:-2, 1:-1], rim[2:, 1:-1], rim[1:-1, :-2], rim[1:-1, 2:]])


def padded(x, radius, outside):
    """x (H, W, B) with a rim of `radius` cells that hold the value `outside`: (H + 2 radius, W + 2 radius, B)."""
    h, w, b = x.shape
    rim = x.new_full((h + 2 * radius, w + 2 * radius, b), outside)
    rim[radius:radius + h, radius:radius + w] = x
    return rim


def around(cells, w, radius):
    """The window of (2 radius + 1)^2 cells around each of `cells` (...), row by row, as cells of a `padded` maze whose own
    width is w: ((2 radius + 1)^2, ...)."""
    reach = torch.arange(-radius, radius + 1, device=cells.device)
    return in_padded(cells, w, radius) + (reach[:, None] * (w + 2 * radius) + reach).view(-1, *[1] * cells.dim())


def in_padded(cells, w, radius):
    """`cells` of a maze w wide, as cells of it `padded`."""
    return cells + cells.div(w, rounding_mode="floor") * (2 * radius) + radius * (w + 2 * radius + 1)


# --------------------------------------------------------------------------------------------------
# Moving


def move_table(mazes, q):
    """Where each action leads, for walking by look-up: (table, greedy).

    table (H * W * 5 * B,): entry (cell * 5 + action) * B + b is the cell to which the action leads in maze b; action 4 is
    the greedy one of q (4, H, W, B). A wall leaves the agent where it is, and from the goal nothing leads away.
    greedy (H, W, B) uint8: the greedy action itself.
    """
    h, w, b = mazes.walls.shape
    kind = torch.int32 if h * w * 5 * b < 2 ** 31 else torch.int64  # 32-bit indices are faster where they reach
    cell = torch.arange(h * w, dtype=kind, device=q.device).view(h, w, 1)
    is_open = ~neighbours(mazes.walls, True)
    table = torch.empty(h * w, 5, b, dtype=kind, device=q.device)
    for action, offset in enumerate((-w, w, -1, 1)):
        torch.add(cell, is_open[action], alpha=offset, out=table.view(h, w, 5, b)[:, :, action])
    greedy = best_action(q)
    torch.gather(table[:, :4], 1, greedy.flatten(0, 1)[:, None].long(), out=table[:, 4:])
    table[mazes.goal, :, torch.arange(b, device=q.device)] = mazes.goal.to(kind)[:, None]
    return table.view(-1), greedy


def best_action(q):
    """argmax of q (4, ...) over its first axis, the first of equals: (...) uint8. By arithmetic, as argmax and where take
    many times longer over an axis of four."""
    vertical, horizontal = (q[1] > q[0]).to(torch.uint8), (q[3] > q[2]).to(torch.uint8) + 2
    return vertical + (torch.maximum(q[2], q[3]) > torch.maximum(q[0], q[1])) * (horizontal - vertical)


def walk(table, start, choices, react=None):
    """The cells on each way from start (B,), one look-up in a `move_table` a step: (T + 1, B) int64.

    choices (T, B): 0..3, or 4 for the greedy action: the table's, or what react(cells (B,)) answers, which then takes the
    4's place in `choices`.
    """
    t, b = choices.shape
    lane = torch.arange(b, dtype=table.dtype, device=table.device)
    with torch.inference_mode(react is None):
        cells = torch.empty(t + 1, b, dtype=table.dtype, device=table.device)
        cells[0] = start
        entry, cell, offset = torch.empty_like(lane), cells.unbind(), torch.add(lane, choices, alpha=b).unbind()
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

    Yields, as bits, which cells are more than 0, 1, 2, ... steps from the goal, until these are the cells that can't reach
    it: (H * (W + 1), ceil(B / 64)) int64, the same tensor every time. Its cells are those of `from_waves`.
    """
    h, w, b = walls.shape
    line = w + 1  # a column of wall, right of one row and so left of the next; and a row of it above and below
    wall = torch.ones((h + 2) * line + 1, b, dtype=torch.bool, device=walls.device)
    wall[line:-line - 1].view(h, line, b)[:, :w] = walls
    far = torch.ones_like(wall).scatter_(0, (goal + goal.div(w, rounding_mode="floor") + line)[None], False)
    wall, far = to_bits(wall)[line:-line - 1], to_bits(far)
    here, up, down, left, right = (far[line + step:len(far) - line - 1 + step] for step in (0, -line, line, -1, 1))
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


def from_waves(far, walls):
    """What `waves` yielded, as cells of the mazes: (H, W, B) uint8, 0 or 1."""
    h, w, b = walls.shape
    return from_bits(far).view(h, w + 1, -1)[:, :w, :b]


def to_bits(x):
    """64 lanes to a word: x (N, B) bool -> (N, ceil(B / 64)) int64."""
    x = F.pad(x.to(torch.uint8), (0, -x.shape[1] % 64)).view(torch.int64)
    return (x * 0x0102040810204080 >> 56).to(torch.uint8).view(torch.int64)  # eight bytes of 0 or 1 become one


def from_bits(words):
    """The inverse of to_bits: (N, words) int64 -> (N, 64 words) uint8, 0 or 1."""
    byte = torch.arange(256, device=words.device)[:, None] >> torch.arange(8, device=words.device) & 1
    lanes = byte.to(torch.uint8).view(torch.int64)[:, 0].index_select(0, words.view(torch.uint8).flatten().int())
    return lanes.view(torch.uint8).view(len(words), -1)


def within(walls, goal, most):
    """Where a shortest path to the goal has 1..most steps: (H, W, B) bool."""
    for far in itertools.islice(waves(walls, goal), most + 1):
        pass
    return from_waves(far, walls).eq(0).flatten(0, 1).scatter_(0, goal[None], False).view_as(walls)


def distances(walls, goal):
    """Steps from each cell to the goal by a shortest path: (H, W, B) int32, -1 where the goal can't be reached."""
    digits = []  # of the distances, in base 2
    for step, far in enumerate(waves(walls, goal), 1):
        if step == 1 << len(digits):
            digits.append(torch.zeros_like(far))
        for digit in digits[:(step & -step).bit_length()]:
            digit ^= far  # what is d steps away is far 1, 2, ..., d times: digit i flips at every 2 ** i of them
    distance = sum(from_waves(digit, walls).int() << i for i, digit in enumerate(digits))
    return distance.masked_fill_(from_waves(far, walls).bool(), -1)


def shortest(mazes, distance):
    """Steps on a shortest way from each start, given `distances` (H, W, B): (B,)."""
    return distance.flatten(0, 1).gather(0, mazes.start[None])[0]


def optimal_q(mazes, distance, gamma):
    """Q*(s, a) = gamma ** d(s'), where s' is the cell that a leads to: (4, H, W, B). 0 where the goal can't be reached."""
    value = gamma ** distance.float() * (distance >= 0)
    return torch.lerp(neighbours(value, 0.0), value, neighbours(mazes.walls, True).float())  # a wall leaves the agent where it is


def potential(mazes, shaping, gamma):
    """What reward shaping holds each cell to be worth, (H, W, B): gamma to the power of the steps that
    remain once it is left, "manhattan": on a straight way, "oracle": on a shortest one; 0 in the goal
    and where it can't be reached. "none": None."""
    if shaping == "none":
        return None
    if shaping == "oracle":
        distance = distances(mazes.walls, mazes.goal)
    else:
        h, w, _ = mazes.walls.shape
        y, x = torch.arange(h, device=mazes.goal.device), torch.arange(w, device=mazes.goal.device)
        distance = (y[:, None, None] - mazes.goal // w).abs() + (x[:, None] - mazes.goal % w).abs()
    return torch.where(distance > 0, gamma ** (distance - 1.0), 0.0)
