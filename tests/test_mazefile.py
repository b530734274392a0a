"""Mazes of files: each form is read as the maze that it shows, or refused with the reason."""

import io
import itertools
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import reference
from PIL import Image
from test_runs import exact

import main
from support import mazefile
from support.files import save_checkpoint
from support.processes import UserError

H, W = 5, 7  # rooms


def perfect(seed=0, doors=()):
    """(the tree of rooms, walls of the grid, start and goal cell) of a random perfect maze.

    doors: which of start and goal stand in gaps of the outer wall."""
    chance = np.random.default_rng(seed)
    rooms = nx.grid_2d_graph(H, W)
    for edge in rooms.edges:
        rooms.edges[edge]["weight"] = chance.random()
    tree = nx.minimum_spanning_tree(rooms)
    walls = np.ones((2 * H + 1, 2 * W + 1), bool)
    for (y, x), (v, u) in [*tree.edges, *((room, room) for room in tree)]:
        walls[y + v + 1, x + u + 1] = False
    start, goal = (1, 0) if "start" in doors else (1, 1), (2 * H - 1, 2 * W - 1)
    if "goal" in doors:
        goal = 2 * H - 1, 2 * W
    walls[start] = walls[goal] = False
    return tree, walls, start, goal


def way(walls, start, goal):
    """The cells of the only path, without its ends."""
    return nx.shortest_path(reference.graph(walls), start, goal)[1:-1]


def grid(walls, start, goal, letters, cells=()):
    """The maze as text. letters: of wall, floor, start, goal, path."""
    text = np.where(walls, letters[0], letters[1])
    for cell in cells:
        text[cell] = letters[4]
    text[start], text[goal] = letters[2], letters[3]
    return ["".join(row) for row in text]


def drawing(tree, start, goal, post, wide, high=1, mark=" "):
    """The maze with walls between its rooms, as many micromouse mazes are drawn."""
    lines, path = [], nx.shortest_path(tree, start, goal)
    for y, x in itertools.product(range(H + 1), range(W + 1)):
        if x == 0:
            lines += [[] for _ in range(1 + high if y < H else 1)]
        above = y in (0, H) or not tree.has_edge((y - 1, x), (y, x))
        lines[y * (high + 1)] += [post, ("-" if above and x < W else " ") * wide * (x < W)]
        for row in range(high if y < H else 0):
            beside = x in (0, W) or not tree.has_edge((y, x - 1), (y, x))
            room = {start: "S", goal: "G"}.get((y, x), mark if (y, x) in path else " ")
            inside = (room if row == high // 2 else " ").center(wide) * (x < W)
            lines[y * (high + 1) + 1 + row] += ["|" if beside else " ", inside]
    return ["".join(line) for line in lines]


def taken(path, *arguments):
    (one,) = mazefile.read(str(path), *arguments)
    return one


def same(one, walls, start, goal):
    cells = [np.ravel_multi_index(cell, walls.shape) for cell in (start, goal)]
    return np.array_equal(one.walls, walls) and [one.start, one.goal] == cells


# Text


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "letters", ["#.SG*", "# SEX", "# SE+", "█ se·", "%.ABo", "1023", "1,0,2,3", "1 0 2 3"]
)
def test_text_of_many_kinds(tmp_path, letters, seed):
    _, walls, start, goal = perfect(seed, ("start", "goal") if seed == 1 else ())
    between, letters = letters[1] if letters[1] in ", " and letters[0] == "1" else "", letters
    letters = letters[::2] if between else letters
    cells = way(walls, start, goal) if len(letters) > 4 else ()
    lines = [between.join(line) for line in grid(walls, start, goal, letters, cells)]
    encoding = "utf-16" if seed == 2 else "utf-8"  # as PowerShell writes
    (tmp_path / "m").write_bytes("\r\n".join(lines).encode(encoding))
    assert same(taken(tmp_path / "m"), walls, start, goal)
    if letters[0] == "1":
        lines = [line.replace("1", "x").replace("0", "1").replace("x", "0") for line in lines]
        (tmp_path / "m").write_text("\n".join(lines))
        assert same(taken(tmp_path / "m", "", "", "0"), walls, start, goal)


@pytest.mark.parametrize("post, wide, high", [("o", 3, 1), ("+", 3, 1), ("+", 1, 1), ("+", 5, 3)])
@pytest.mark.parametrize("trimmed", [False, True])
def test_drawing_with_walls_between_the_cells(tmp_path, post, wide, high, trimmed):
    for seed, mark in (0, " "), (1, "*"), (2, "X"):
        tree, walls, *_ = perfect(seed)
        rooms, far = list(tree), nx.eccentricity(tree)
        start = rooms[seed]
        goal = max(rooms, key=lambda room: nx.shortest_path_length(tree, start, room))
        lines = drawing(tree, start, goal, post, wide, high, mark)
        (tmp_path / "m").write_text("\n".join(x.rstrip() if trimmed else x for x in lines))
        one, cells = taken(tmp_path / "m"), [(2 * y + 1, 2 * x + 1) for y, x in (start, goal)]
        walls[1, 1] = walls[2 * H - 1, 2 * W - 1] = False
        assert same(one, walls, *cells)
        assert reference.distances(one.walls, one.goal).flat[one.start] == 2 * far[start]


def test_moving_ai_map_pac_man_and_blanks_that_an_editor_cut_off(tmp_path):
    _, walls, start, goal = perfect()
    text = "\n".join(grid(walls, start, goal, "@.SG"))  # in a map S is swamp, G ground
    lines = [text[i] if text[i] != "@" else "@OTW"[i % 4] for i in range(len(text))]
    lines = "".join(lines).split("\n")
    (tmp_path / "m").write_text("\n".join(["type octile", "height 11", "width 15", "map", *lines]))
    assert same(taken(tmp_path / "m", "1,1", "9,13"), walls, start, goal)
    (tmp_path / "m").write_text("\n".join(grid(walls, start, goal, "% P.")))
    assert same(taken(tmp_path / "m"), walls, start, goal)
    walls[3, -1] = walls[5, -1] = False
    lines = [line.rstrip() for line in grid(walls, start, goal, "# SG")]
    (tmp_path / "m").write_text("\n".join(lines))
    assert len({*map(len, lines)}) > 1 and same(taken(tmp_path / "m"), walls, start, goal)


def test_of_several_goals_the_nearest_counts(tmp_path):
    for seed in range(5):
        _, walls, start, _ = perfect(seed)
        walls[7] = walls[7] | (seed == 4)  # what lies below is cut off
        away = reference.distances(walls, np.ravel_multi_index(start, walls.shape))
        chance = np.random.default_rng(seed)
        goals = chance.choice(np.argwhere(~walls & (away != 0)), 8, replace=False)
        text = np.array([[*line] for line in grid(walls, start, (0, 0), "#.SG")])
        text[0, 0] = "#"
        text[tuple(goals.T)] = "G"
        (tmp_path / "m").write_text("\n".join("".join(row) for row in text))
        wanted = min(int(away[y, x]) for y, x in goals if away[y, x] > 0)
        assert away.flat[taken(tmp_path / "m").goal] == wanted


@pytest.mark.parametrize(
    "text, said",
    [
        ("XXXXX\nXS.GX\nXXXXX", "no wall.*X.*WALL=X"),
        ("*****\n*S.G*\n*****", "WALL="),
        ("####\n#SG\n####", "line 2: 3 characters, but line 1 has 4.*`.`"),
        ("# # #\n#S.G\n#####", "line 2: 4 characters"),
        ("1111\n1 1\n12 3\n1111", "line 2: 3 characters"),
        ("10,1\n2,0,3", "','"),
        ("+--+\n|SG|\n+--+", "several letters in one cell"),
        ("+--+-+\n|S   G|\n+--+-+", "equal distances"),
        ("#\tS G#", r"'\\t' in column 2"),
        ("type octile\nheight 2\nwidth 3\nmap\n...", "height and width 1 3"),
        ("#####\n#S.S#\n#..G#", "2 starts"),
        ("####\n#S.#", "line 1.* no goal.*GOAL=y,x"),
        ("S.G\n\n..G\n.S.\n.S.\n", "line 3.* 2 starts"),
        ("S.G\n\n\n#.G\n", "line 4.* no start"),
        ("S.G\n.?.\n", "line 2.*'\\?' in column 2"),
    ],
)
def test_unclear_text_is_refused_with_the_reason(tmp_path, text, said):
    (tmp_path / "m").write_text(text)
    with pytest.raises(UserError, match=said):
        mazefile.read(str(tmp_path / "m"))
    if said.endswith("WALL=X"):
        assert taken(tmp_path / "m", "", "", "X").walls.sum() == 12


# Pictures


def painted(walls, start, goal, wall=0, floor=255, path=None, size=8, margin=0):
    """An RGB array of the maze; start green and goal red, unless they are None."""
    image = np.where(walls[..., None], wall, floor) + np.zeros(3, int)
    if path is not None:
        image[tuple(np.transpose(way(walls, start, goal)))] = path
    if start:
        image[start], image[goal] = (0, 255, 0), (255, 0, 0)
    image = image.repeat(size, 0).repeat(size, 1)
    return np.pad(image, ((margin,) * 2, (margin,) * 2, (0, 0)), constant_values=255)


def alpha(walls, *marks):
    """What is neither wall nor mark is transparent."""
    image = painted(walls, *marks, floor=0)
    opaque = painted(walls, *marks, wall=255, floor=0).any(-1) * 255
    return np.dstack([image, opaque])


DOORS = "start", "goal"
FORMS = {
    "plain": painted,
    "one pixel": lambda *maze: painted(*maze, size=1),
    "blue path": lambda *maze: painted(*maze, path=(0, 0, 255)),
    "another blue path": lambda *maze: painted(*maze, path=(30, 30, 220)),
    "yellow path": lambda *maze: painted(*maze, path=(255, 220, 0)),
    "grey floor": lambda *maze: painted(*maze, floor=100),
    "blue walls": lambda *maze: painted(*maze, wall=(0, 0, 200)),
    "dark walls, coloured floor": lambda *maze: painted(*maze, wall=20, floor=(255, 220, 150)),
    "transparent": alpha,
    "margin": lambda *maze: painted(*maze, margin=5),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed, doors", [(0, ()), (1, DOORS), (2, DOORS[:1])])
def test_a_picture_is_read_as_it_is_seen(tmp_path, form, seed, doors):
    _, walls, start, goal = perfect(seed, doors)
    image = FORMS[form](walls, start, goal)
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "m.png")
    (tmp_path / "m.png").rename(tmp_path / "m.jpg")  # what it is shows in itself
    assert same(taken(tmp_path / "m.jpg"), walls, start, goal)


@pytest.mark.parametrize("kind", ["16 bits", "margin", "grey and alpha", "blurred", "jpeg"])
def test_a_grey_picture_with_start_and_goal_given(tmp_path, kind):
    for seed in range(3):
        _, walls, start, goal = perfect(seed, DOORS)
        image = painted(walls, None, None, margin=8 * (kind == "margin"))[..., 0].astype(np.uint8)
        picture = Image.fromarray(image)
        if kind == "16 bits":
            picture = Image.fromarray(np.where(image == 0, 8960, 59904).astype(np.uint16))
        elif kind == "grey and alpha":
            picture = Image.fromarray(np.dstack([0 * image, 255 - image]), "LA")
        elif kind == "blurred":
            picture = picture.resize((picture.width * 2, picture.height * 2), Image.BILINEAR)
        name = tmp_path / ("m.jpg" if kind == "jpeg" else "m.png")
        picture.save(name)
        places = [f"{y},{x}" for y, x in (start, goal)]
        assert same(taken(name, *places), walls, start, goal)


@pytest.mark.parametrize("seed, doors", [(0, ()), (1, DOORS)])
def test_light_walls_on_dark_are_asked_about(tmp_path, seed, doors):
    _, walls, start, goal = perfect(seed, doors)
    corridor = np.arange(15).reshape(3, 5) // 5 != 1
    corridor[1, [0, 4]] = True
    for maze in (corridor, (1, 1), (1, 3)), (walls, start, goal):
        image = painted(*maze, wall=255, floor=0)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "m.png")
        with pytest.raises(UserError, match="rim is white.*WALL=0.*WALL=255"):
            taken(tmp_path / "m.png")
    assert same(taken(tmp_path / "m.png", "", "", "255"), walls, start, goal)


def test_unclear_pictures_and_arrays_are_refused_with_what_was_seen(tmp_path):
    _, walls, start, goal = perfect()

    def refused(said, image, *arguments):
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "m.png")
        with pytest.raises(UserError, match=said) as told:
            taken(tmp_path / "m.png", *arguments)
        assert "\n" not in str(told.value)

    refused("of another colour.*grey 128", painted(walls, start, goal, path=128))
    refused("of another colour.*#005a5a", painted(walls, start, goal, path=(0, 90, 90)))
    snake = reference.serpentine(9)
    snake[1, 4] = False  # more path than floor
    refused("of another colour", painted(snake, (0, 0), (8, 8), 128, 240, (0, 0, 255)))
    refused("of another colour", painted(walls, start, goal, 128, 200, (160, 160, 160)))
    refused("of another colour", painted(snake, (0, 0), (8, 8), 60, 100, (100, 149, 237)))
    refused("must differ more", painted(walls, start, goal, 60, 70))
    refused("all around its start.*WALL=255", painted(np.eye(11, 15, 3) > 0, start, goal, 255, 0))
    refused("rim is white", painted(walls, start, goal, 255, 200, (255, 255, 0)))
    refused("red ones", painted(walls, start, goal, path=(255, 0, 0)), "1,1", "9,13")
    refused(
        "black is wall here: if white is to be, say WALL=255",
        painted(walls, None, None),
        "0,0",
        "9,13",
    )
    refused("no start.*green", painted(walls, None, None))
    refused("has numbers or shades", painted(walls, start, goal), "", "", "dark")


def as_bytes(save, *content, **named):
    file = io.BytesIO()
    save(file, *content, **named)
    return file.getvalue()


def test_arrays_and_archives_of_one(tmp_path):
    _, walls, start, goal = perfect()
    coded = np.array([[*map(int, line)] for line in grid(walls, start, goal, "1023")])
    places = "1,1", "9,13"
    for array, arguments in [
        (walls, places), (walls * 2.5, places), (walls * -1, places), (coded, ()),
        (coded.astype(float), ()), (coded, places), (~walls, (*places, "0")),
        (np.where(walls, 7, coded), (*places, "7")),
    ]:  # fmt: skip
        for data in as_bytes(np.save, array), as_bytes(np.savez_compressed, maze=array):
            (tmp_path / "m").write_bytes(data)
            assert same(taken(tmp_path / "m", *arguments), walls, start, goal)
    for array, arguments, said in [
        (~walls, places, "not 0 is wall here.*WALL=0"),
        (coded * 2, places, "4 different numbers"),
        (np.maximum(coded, np.eye(11, 15, -1, dtype=int) * 2), places, "4 different numbers"),
        (coded[0], places, "shape"),
        (walls, (), "START=y,x"),
    ]:
        (tmp_path / "m").write_bytes(as_bytes(np.save, array))
        with pytest.raises(UserError, match=said):
            taken(tmp_path / "m", *arguments)


FOREIGN = {
    b"": "empty",
    b"\n": "empty",
    b"%PDF-1.7\n": "a PDF",
    b"\x00\x00\x00\x18ftypheic\x00\x00": "known type.*HEIC",
    b"\x1f\x8b\x08\x00": "an archive",
    as_bytes(lambda file: __import__("zipfile").ZipFile(file, "w").writestr("a.txt", "#")): "archive",
    as_bytes(np.savez, a=np.eye(2), b=np.eye(2)): "2 arrays",
    as_bytes(np.save, np.array([{}], object)): "not a numpy array of numbers",
    as_bytes(np.save, np.eye(9))[:300]: "damaged",
    as_bytes(Image.new("RGB", (99, 99)).save, "PNG")[:60]: "can't be read",
    b"<svg xmlns=''>": "SVG",
    bytes(range(256)): "not a text file",
}  # fmt: skip


@pytest.mark.parametrize("data", FOREIGN, ids=FOREIGN.values())
def test_what_holds_no_maze_is_told_by_what_it_is(tmp_path, data):
    for name in "m.png", "m.txt", "m.npy":
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=FOREIGN[data]) as told:
            taken(tmp_path / name)
        assert "\n" not in str(told.value)


# The command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The present folder, with an agent and a maze of 2 steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    save_checkpoint("out/checkpoint.pt", exact(), main.config() | dict(MODEL="linear"))
    Path("m.txt").write_text("#####\n#S.G#\n#####\n")
    return tmp_path


def solved(capsys, *arguments):
    assert main.main(["solve", *arguments]) == 0
    out, err = capsys.readouterr()
    assert not err
    return out


def test_what_solve_prints_can_be_solved(folder, capsys):
    Path("n.txt").write_text("S..G\n\n###\nS#G\n###\n\n#####\n#S.G#\n")
    first = solved(capsys, "n.txt")
    assert "S**G\nmaze 1" in first and "unreachable" in first
    Path("again.txt").write_text(first)
    assert solved(capsys, "again.txt") == first


def test_solve_takes_several_files_and_standard_input(folder, monkeypatch, capsys):
    Path("a=b.txt").write_text("S...G\n")
    stdin = io.TextIOWrapper(io.BytesIO(b"S....G\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    said = solved(capsys, "a=b.txt", "m.txt", "-", "~/m.txt", "OUT_DIR=~/out")
    assert [f"maze {n}: solved in {steps} " in said for n, steps in enumerate((4, 2, 5, 2), 1)]
    assert "solved 4 of 4, by a shortest path 4" in said and Path("out/solved.png").exists()
    assert "solved in 1 steps" in solved(capsys, "m.txt", "START=1,2")


def test_a_picture_that_fails_is_one_warning_after_the_walks(folder, monkeypatch, capsys):
    def full(*_):
        assert "maze 1: solved" in capsys.readouterr().out
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mazefile.pictures, "walks", full)
    assert main.main(["solve", "m.txt"]) == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "warning: out/solved.png" in err and "No space left" in err


def test_solve_says_that_solve_was_stopped_or_lacked_memory(folder, monkeypatch, capsys):
    errors = (KeyboardInterrupt(), 130, "solve was stopped"), (MemoryError(), 2, "for solve")
    for error, status, said in errors:
        monkeypatch.setattr(main, "rollout", lambda *_, error=error: (_ for _ in ()).throw(error))
        assert main.main(["solve", "m.txt"]) == status
        err = capsys.readouterr().err
        assert said in err and "RESUME" not in err and "BSZ" not in err and err.count("\n") == 1
