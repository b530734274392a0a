"""Mazes of files: each form is read as the maze that it shows, or refused with the reason."""

import io
from pathlib import Path
from unittest.mock import Mock
from zipfile import ZipFile

import networkx as nx
import numpy as np
import pytest
import reference
from PIL import Image
from test_runs import exact

import main
from support import mazefile
from support.files import save_checkpoint
from support.process import UserError


def perfect(seed=0, start=(1, 1), goal=(9, 13)):
    """(walls, start and goal cell) of a random perfect maze of 5x7 rooms."""
    tree = nx.random_spanning_tree(nx.grid_2d_graph(5, 7), seed=seed)
    walls = np.ones((11, 15), bool)
    for (y, x), (v, u) in [*tree.edges, *((room, room) for room in tree)]:
        walls[y + v + 1, x + u + 1] = False
    walls[start] = walls[goal] = False
    return walls, start, goal


def way(walls, start, goal):
    """The cells of the only path, without its ends."""
    return nx.shortest_path(reference.graph(walls), start, goal)[1:-1]


def taken(path, *arguments):
    (one,) = mazefile.read(str(path), *arguments)
    return one


def same(one, walls, start, goal):
    cells = [np.ravel_multi_index(cell, walls.shape) for cell in (start, goal)]
    return np.array_equal(one.walls[..., 0], walls) and [one.start, one.goal] == cells


DRAWN = """\
#######
#S..#.#
#.###.#
#....G#
#######

o---o---o---o
| S     |   |
o   o---o   o
|     *   G |
o---o---o---o

+-+-+-+
|S  | |
+ +-+ +
|  * G|
+-+-+-+

+-----+-----+-----+
|           |     |
|  S        |     |
|           |     |
+     +-----+     +
|                 |
|        X     G  |
|                 |
+-----+-----+-----+""".split("\n\n")
SMALL = "####\n#SG#\n####"
DOORED = "#####\nS..##\n##..G\n#####"
NUMBERS = "11111\n20011\n11003\n11111"
READ = [(text, DRAWN[0]) for text in DRAWN]
READ += [
    (DOORED.replace("\n", "\r\n").encode("utf-16"), DOORED),  # as PowerShell writes
    ("#####\nS* ##\n##*XE\n#####", DOORED),
    ("█████\ns·.██\n██+·e\n█████", DOORED),
    ("%%%%%\nA.o%%\n%%o.B\n%%%%%", DOORED),
    (NUMBERS, DOORED),
    (NUMBERS.translate(str.maketrans("01", "10")), DOORED, "", "", "0"),
    ("\n".join(",".join(line) for line in NUMBERS.split()), DOORED),
    ("\n".join(" ".join(line) for line in NUMBERS.split()), DOORED),
    # In a map S is swamp, G ground.
    ("type octile\nheight 3\nwidth 4\nmap\n@OTW\n@SG@\nTTWW\n", SMALL, "1,1", "1,2"),
    ("%%%%\n%P.%\n%%%%", SMALL),  # Pac-Man
    ("XXXX\nXSGX\nXXXX", SMALL, "", "", "X"),
    ("#####\n#S G#\n#\n#####", "#####\n#S.G#\n#....\n#####"),  # an editor cut off blanks
    ("G#G..\n##..S\nG...G", ".#...\n##..S\n....G"),  # the nearest of several goals
    ("S.#G\n..##\n...G", "S.#.\n..##\n...G"),  # the only one that can be reached
]


@pytest.mark.parametrize("case", READ, ids=range(len(READ)))
def test_text_is_read_as_the_maze_that_it_shows(tmp_path, case):
    text, shown, *arguments = case
    (tmp_path / "m").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert mazefile.as_text(taken(tmp_path / "m", *arguments)) == shown


def painted(walls, start, goal, wall=0, floor=255, path=None, size=8, margin=0):
    """An RGB array of the maze; start green and goal red, unless they are None."""
    image = np.where(walls[..., None], wall, floor) + np.zeros(3, int)
    if path is not None:
        image[tuple(np.transpose(way(walls, start, goal)))] = path
    if start:
        image[start], image[goal] = (0, 255, 0), (255, 0, 0)
    image = image.repeat(size, 0).repeat(size, 1)
    image = np.pad(image, ((margin,) * 2, (margin,) * 2, (0, 0)), constant_values=255)
    return image.astype(np.uint8)


def as_bytes(save, *content, **named):
    file = io.BytesIO()
    save(file, *content, **named)
    return file.getvalue()


def png(*maze, **how):
    return as_bytes(Image.fromarray(painted(*maze, **how)).save, "PNG")


def npy(array):
    return as_bytes(np.save, array)


def grey(walls, **how):
    """Without start and goal."""
    return painted(walls, None, None, **how)[..., 0]


def transparent(walls, *marks):
    """What is neither wall nor mark can't be seen."""
    opaque = painted(walls, *marks, wall=255, floor=0).any(-1) * np.uint8(255)
    return np.dstack([painted(walls, *marks, floor=0), opaque])


def blurred(walls, *_):
    picture = Image.fromarray(grey(walls))
    return np.array(picture.resize((picture.width * 2, picture.height * 2), Image.BILINEAR))


FORMS = {
    "plain": painted,
    "one pixel": lambda *maze: painted(*maze, size=1),
    "blue path": lambda *maze: painted(*maze, path=(30, 30, 220)),
    "yellow path": lambda *maze: painted(*maze, path=(255, 220, 0)),
    "dim floor": lambda *maze: painted(*maze, floor=100),
    "blue walls": lambda *maze: painted(*maze, wall=(0, 0, 200)),
    "dark walls, coloured floor": lambda *maze: painted(*maze, wall=20, floor=(255, 220, 150)),
    "light walls": lambda *maze: painted(*maze, wall=255, floor=0),
    "transparent": transparent,
    "margin": lambda *maze: painted(*maze, margin=5),
    "grey with a margin": lambda walls, *_: grey(walls, margin=8),
    "grey of 16 bits": lambda walls, *_: np.where(grey(walls), 59904, 8960).astype(np.uint16),
    "grey and alpha": lambda walls, *_: np.dstack([0 * grey(walls), 255 - grey(walls)]),
    "grey and blurred": blurred,
    "grey jpeg": lambda walls, *_: grey(walls),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ends", [(), ((1, 0), (9, 14)), ((1, 0), (9, 13))])
def test_a_picture_is_read_as_it_is_seen(tmp_path, form, ends):
    """Also with start and goal in gaps of the outer wall."""
    walls, start, goal = perfect(len(ends), *ends)
    image = Image.fromarray(FORMS[form](walls, start, goal))
    image.save(tmp_path / "m", "JPEG" if "jpeg" in form else "PNG")
    given = [f"{y},{x}" if form.startswith("grey") else "" for y, x in (start, goal)]
    wall = "255" if form == "light walls" else ""
    assert same(taken(tmp_path / "m", *given, wall), walls, start, goal)


MAZE = perfect()
CODED = MAZE[0].astype(int)
CODED[MAZE[1]], CODED[MAZE[2]] = 2, 3


def test_arrays_and_archives_of_one(tmp_path):
    walls, places = MAZE[0], ("1,1", "9,13")
    for array, arguments in [
        (walls, places), (walls * 2.5, places), (walls * -1, places), (CODED, ()),
        (CODED.astype(float), ()), (CODED, places), (~walls, (*places, "0")),
        (np.where(walls, 7, CODED), (*places, "7")),
    ]:  # fmt: skip
        for data in npy(array), as_bytes(np.savez_compressed, maze=array):
            (tmp_path / "m").write_bytes(data)
            assert same(taken(tmp_path / "m", *arguments), *MAZE)


BLIND = np.eye(11, 15, 3) > 0, *MAZE[1:]
SNAKE = reference.serpentine(9), (0, 0), (8, 8)
SNAKE[0][1, 4] = False  # more path than floor
CORRIDOR = np.pad(np.zeros((1, 3), bool), 1, constant_values=True), (1, 1), (1, 3)
REFUSED = [
    ("no wall.*X.*WALL=X", "XXXXX\nXS.GX\nXXXXX"),
    ("line 2: 3 characters, but line 1 has 4.*`.`", "####\n#SG\n####"),
    ("line 2: 3 characters", "1111\n1 1\n12 3\n1111"),
    ("','", "10,1\n2,0,3"),
    ("several letters in one cell", "+--+\n|SG|\n+--+"),
    ("equal distances", "+--+-+\n|S   G|\n+--+-+"),
    (r"'\\t' in column 2", "#\tS G#"),
    ("height and width 1 3", "type octile\nheight 2\nwidth 3\nmap\n..."),
    ("line 1.* no goal.*GOAL=y,x", "####\n#S.#"),
    ("line 3.* 2 starts", "S.G\n\n..G\n.S.\n.S.\n"),
    ("line 4.* no start", "S.G\n\n\n#.G\n"),
    ("line 2.*'\\?' in column 2", "S.G\n.?.\n"),
    ("of another colour.*grey 128", png(*MAZE, path=128)),
    ("of another colour.*#005a5a", png(*MAZE, path=(0, 90, 90))),
    ("of another colour", png(*SNAKE, 128, 240, (0, 0, 255))),
    ("must differ more", png(*MAZE, 60, 70)),
    ("all around its start.*WALL=255", png(*BLIND, 255, 0)),
    ("rim is white", png(*MAZE, 255, 200, (255, 255, 0))),
    ("rim is white.*WALL=0.*WALL=255", png(*CORRIDOR, 255, 0)),
    ("rim is white.*WALL=0.*WALL=255", png(*perfect(1, (1, 0), (9, 14)), 255, 0)),
    ("red ones", png(*MAZE, path=(255, 0, 0)), "1,1", "9,13"),
    ("black is wall.*white.*WALL=255", png(MAZE[0], None, None), "0,0", "9,13"),
    ("no start.*green", png(MAZE[0], None, None)),
    ("has numbers or shades", png(*MAZE), "", "", "dark"),
    ("not 0 is wall here.*WALL=0", npy(~MAZE[0]), "1,1", "9,13"),
    ("4 different numbers", npy(2 * CODED)),
    ("4 different numbers", npy(np.maximum(CODED, 2 * np.eye(11, 15, -1, dtype=int)))),
    ("shape", npy(CODED[0])),
    ("START=y,x", npy(MAZE[0])),
    ("empty", ""),
    ("empty", "\n"),
    ("a PDF", "%PDF-1.7\n"),
    ("known type.*HEIC", b"\x00\x00\x00\x18ftypheic\x00\x00"),
    ("an archive", b"\x1f\x8b\x08\x00"),
    ("an archive", as_bytes(lambda file: ZipFile(file, "w").writestr("a.txt", "#"))),
    ("one numpy array", as_bytes(np.savez, a=np.eye(2), b=np.eye(2))),
    ("not one numpy array of numbers", npy(np.array([{}], object))),
    ("damaged", npy(np.eye(9))[:300]),
    ("can't be read", as_bytes(Image.new("RGB", (99, 99)).save, "PNG")[:60]),
    ("SVG", "<svg xmlns=''>"),
    ("not a text file", bytes(range(256))),
]


@pytest.mark.parametrize("case", REFUSED, ids=range(len(REFUSED)))
def test_what_is_unclear_or_no_maze_is_refused_with_the_reason(tmp_path, case):
    said, data, *arguments = case
    (tmp_path / "m").write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UserError, match=said) as told:
        mazefile.read(str(tmp_path / "m"), *arguments)
    assert "\n" not in str(told.value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The present folder, with an agent and a maze of 2 steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    save_checkpoint("out/checkpoint.pt", exact(), main.config() | dict(MODEL="linear"))
    Path("m.txt").write_text("#####\n#S.G#\n#####\n")
    return tmp_path


def test_solve_takes_files_and_standard_input_and_what_it_printed(folder, monkeypatch, capsys):
    def solved(*arguments):
        assert main.main(["solve", *arguments]) == 0
        out, err = capsys.readouterr()
        assert not err
        return out

    Path("a=b.txt").write_text("S...G\n\n###\nS#G\n###\n")
    first = solved("a=b.txt")
    assert "S***G\nmaze 1" in first and "unreachable" in first
    Path("again.txt").write_text(first)
    assert solved("again.txt") == first
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"S....G\n")))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    said = solved("a=b.txt", "m.txt", "-", "~/m.txt", "OUT_DIR=~/out")
    for number, steps in (1, 4), (3, 2), (4, 5), (5, 2):
        assert f"maze {number}: solved in {steps} " in said
    assert "solved 4 of 5, by a shortest path 4" in said and Path("out/solved.png").exists()
    assert "solved in 1 steps" in solved("m.txt", "START=1,2")


def test_solve_draws_what_it_prints(folder, monkeypatch, capsys):
    drawn = []
    Path("m.txt").write_text("S...\n....\n....\n...G\n\nS....G\n......\n......\n......\n......")
    monkeypatch.setattr(mazefile.pictures, "walks", lambda *found: drawn.extend(found))
    assert main.main(["solve", "m.txt"]) == 0
    _, mazes, cells, away, distance, farthest, _ = drawn
    walked = "".join("*" if cell in cells[:, 0] else "." for cell in range(16))
    shown = capsys.readouterr().out.replace("S", "*").replace("G", "*").replace("\n", "")
    assert (
        shown.startswith(walked)
        and farthest == 6
        and mazes.walls.shape == (4, 4, 1)
        and mazes.goal.tolist() == [15]
    )
    assert ((1 + away.amin(0))[distance > 0] == distance[distance > 0]).all()


def test_what_goes_wrong_while_it_solves_is_one_line(folder, monkeypatch, capsys):
    """A picture that fails is a warning after the walks; a stop and lack of memory end it."""
    for place, name, error, status, said in [
        (mazefile.pictures, "walks", OSError(28, "No space left on device"), 0, "solved.png"),
        (main, "rollout", KeyboardInterrupt(), 130, "solve was stopped"),
        (main, "rollout", MemoryError(), 2, "for solve"),
    ]:
        monkeypatch.setattr(place, name, Mock(side_effect=error))
        assert main.main(["solve", "m.txt"]) == status
        out, err = capsys.readouterr()
        assert said in err and err.count("\n") == 1
        assert "RESUME" not in err and "BSZ" not in err
        assert ("maze 1: solved" in out) == (status == 0)
