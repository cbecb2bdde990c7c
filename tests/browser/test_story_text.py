"""The script as the front end reads and edits it, against the Python reader; in the real page, as it is shipped."""

import copy
import json
import random
import string

import pytest

from browser.front_end import OURS, FrontEnd
from storymem_core.script import StoryError, _load, _number

LISTS = ("video_prompts", "cut", "transition", "length", "seed", "characters")
PARSE = """async ([url, texts]) => {
  const { parse } = await import(url);
  const plain = (text, node) =>
    node.kind === "array" ? ["array", node.items.map((item) => plain(text, item.value))]
    : node.kind === "object" ? ["object", node.items.map((item) => [item.name, plain(text, item.value)])]
    : node.kind === "number" ? ["number", text.slice(node.start, node.end)]
    : node.kind === "string" ? ["string", node.value]
    : ["word", String(node.value)];
  return JSON.stringify(texts.map((text) => {
    try { return plain(text, parse(text)); }
    catch (error) { if (error instanceof SyntaxError) return null; throw error; }
  }));
}"""
EDIT = """async ([url, calls]) => {
  const edits = await import(url);
  return calls.map(([name, ...given]) => edits[name](...given));
}"""
WORDS = {"null": None, "true": True, "false": False, "Infinity": float("inf"), "-Infinity": float("-inf")}


def values(front_end: FrontEnd, texts: list[str]) -> list:
    """What the front end reads of each text; ... where it reads none."""

    def value(read):
        if read is None:
            return ...
        kind, content = read
        if kind == "array":
            return [value(item) for item in content]
        if kind == "object":
            return {name: value(item) for name, item in content}
        if kind == "number":
            return _number(content) if content.lstrip("-").isdigit() else float(content)
        return WORDS.get(content, float("nan")) if kind == "word" else content

    reads = json.loads(front_end.page.evaluate(PARSE, [f"{OURS}jsonc.js", texts]))
    return [value(read) for read in reads]


def edited(front_end: FrontEnd, *calls: tuple) -> list[str]:
    """The text after each edit: the name of a function of story_text.js and what it is given."""
    return front_end.page.evaluate(EDIT, [f"{OURS}story_text.js", calls])


def python_value(text: str):
    try:
        return _load(text)
    except StoryError:
        return ...


# --- reading

TOKENS = [
    *("{", "}", "[", "]", ",", ":", '"a"', '"b // no comment"', '"\\u00e9\\n\\""', '"/* */"', "1", "-0", "1.5e3"),
    *("true", "false", "null", " ", "\n", "\t", "// c\n", "// c\r", "/* c */", "/* , ] */", "/***/", "//"),
]
ODD_TOKENS = [
    *("NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1", "-", "1e", "0x1", "9" * 400, "1e999", "nul", "True"),
    *('"', "'a'", '"\\x"', '"\\u12g4"', '"\\ud800"', '"a\tb"', '"a\nb"', '"\x7f"', "\\", "/*", "*/", "/", "#"),
    *("\ufeff", "\u00a0", "\u2028", "\x0c", "\x0b", "\0", "安", '"安😀"', ",,", "[,]", "{,}", "[1,]", '{"a":1,}'),
]


def scripts_in_pieces(rng: random.Random) -> str:
    record = {"a": [1, -2.5, True, None, "x"], "b": {"c": [], "d": {}}, "e": [[1], [2, 3]], "é": 'q"\\'}
    pieces = list(json.dumps(record, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5))
    return "".join(pieces)


def corpus() -> list[str]:
    """Texts of every kind: a third and more of them valid."""
    texts = [
        "",
        " ",
        "\ufeff",
        "\ufeff{}",
        "\ufeff\ufeff{}",
        "[" * 50_000,
        "[" * 200 + "]" * 200,
        '"' * 9999,
        "/*/" * 9999,
    ]
    texts += [*TOKENS, *ODD_TOKENS]
    for seed in range(3000):
        rng = random.Random(seed)
        texts.append("".join(rng.choices(TOKENS, k=rng.randrange(12))))
        texts.append("".join(rng.choices(string.printable + '"""[]{},:', k=rng.randrange(9))))
        text = written(json.loads(scripts_in_pieces(rng)), rng, Comments())
        texts.append(text)
        place = rng.randrange(len(text))
        texts.append(text[:place] + rng.choice([*TOKENS, *ODD_TOKENS, ""]) + text[place + rng.randrange(2) :])
    return texts


class Comments:
    """Makes comments, each with a number of its own."""

    def __init__(self):
        self.count = 0

    def some(self, rng: random.Random, line: str) -> str:
        """A comment, or often none: in the line, or to its end."""
        chance = rng.random()
        if chance < 0.6:
            return ""
        self.count += 1
        return f" /* c{self.count} ,] */ " if chance < 0.8 else f" // c{self.count} ,]\n{line}"


def written(value, rng: random.Random, comments: Comments, line: str = "") -> str:
    """JSON with comments and trailing commas, on one line or many."""
    if not isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=rng.random() < 0.5)
    inner = line + "  "
    start, end = (f"\n{inner}", f"\n{line}") if rng.random() < 0.5 else ("", "")
    parts = []
    for i, item in enumerate(value):
        name = f"{json.dumps(item)}:{comments.some(rng, inner)} " if isinstance(value, dict) else ""
        inside = written(value[item] if isinstance(value, dict) else item, rng, comments, inner)
        comma = "," if i < len(value) - 1 or rng.random() < 0.4 else ""
        around = [comments.some(rng, inner) for _ in range(3)]
        parts.append(f"{start or ' '}{around[0]}{name}{inside}{around[1]}{comma}{around[2]}")
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}{comments.some(rng, inner)}{''.join(parts)}{end}{closing}"


def test_the_front_end_reads_what_python_reads(front_end: FrontEnd):
    texts = corpus()
    outcomes = {True: 0, False: 0}
    for text, value in zip(texts, values(front_end, texts), strict=True):
        expected = python_value(text)
        assert repr(value) == repr(expected), text[:300]  # repr: a NaN equals itself, 1 is not 1.0
        outcomes[expected is not ...] += 1
    assert min(outcomes.values()) > 3000, outcomes


# --- editing

STORY = """{
  "story_name": "S", // the name
  "scenes": [
    // by the sea
    {
      "scene_num": 1,
      "video_prompts": [
        // the storm
        "a", // first
        "b",
        "c" // last
      ],
      "cut": [true, false, "True"], // false continues
      "length": [81, null, 33,],
    },
    /* at home */
    { "scene_num": 5, "video_prompts": ["d"], "cut": [true], "seed": [18446744073709551615] }
  ],
}
"""


def replaced(*pairs: tuple[str, str]) -> str:
    text = STORY
    for old, new in pairs:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


HOME = '{ "scene_num": 5, "video_prompts": ["d"], "cut": [true], "seed": [18446744073709551615] }'
EDITS = {
    "one value": (
        ("setEntry", {"scene": 0, "shot": 1}, "video_prompts", '"\\"B\\" /* text */"'),
        replaced(('"b"', '"\\"B\\" /* text */"')),
    ),
    "a list that was not there": (
        ("setEntry", {"scene": 0, "shot": 1}, "transition", '"motion_frames"'),
        replaced(("33,],\n", '33,],\n      "transition": [null, "motion_frames", null],\n')),
    ),
    "nothing into a list that is not there": (("setEntry", {"scene": 0, "shot": 1}, "seed", "null"), STORY),
    "down": (
        ("moveShot", {"scene": 0, "shot": 0}, {"scene": 0, "shot": 2}),
        replaced(
            (
                '        // the storm\n        "a", // first\n        "b",\n        "c" // last\n',
                '        "b",\n        "c", // last\n        // the storm\n        "a" // first\n',
            ),
            ('[true, false, "True"]', '[false, "True", true]'),
            ("[81, null, 33,]", "[null, 33, 81,]"),
        ),
    ),
    "into another scene": (
        ("moveShot", {"scene": 0, "shot": 1}, {"scene": 1, "shot": 1}),
        replaced(
            ('        "b",\n', ""),
            ('[true, false, "True"]', '[true, "True"]'),
            ("[81, null, 33,]", "[81, 33,]"),
            (
                '["d"], "cut": [true], "seed": [18446744073709551615]',
                '["d", "b"], "cut": [true, false], "seed": [18446744073709551615, null]',
            ),
        ),
    ),
    "the only shot of a scene": (
        ("moveShot", {"scene": 1, "shot": 0}, {"scene": 0, "shot": 1}),
        replaced(
            ('        "b",\n', '        "d",\n        "b",\n'),
            ('[true, false, "True"]', '[true, true, false, "True"]'),
            ("[81, null, 33,],\n", '[81, null, null, 33,],\n      "seed": [null, 18446744073709551615, null, null],\n'),
            (f",\n    /* at home */\n    {HOME}", ""),
        ),
    ),
    "delete": (
        ("removeShot", {"scene": 0, "shot": 2}),
        replaced(
            ('        "b",\n        "c" // last\n', '        "b"\n'),
            ('[true, false, "True"]', "[true, false]"),
            ("[81, null, 33,]", "[81, null,]"),
        ),
    ),
    "add a shot": (
        ("addShot", 0),
        replaced(
            ('"c" // last\n', '"c", // last\n        ""\n'),
            ('[true, false, "True"]', '[true, false, "True", true]'),
            ("[81, null, 33,]", "[81, null, 33, null,]"),
        ),
    ),
    "add a scene": (
        ("addScene",),
        replaced(
            (
                HOME,
                f'{HOME},\n    {{\n      "scene_num": 6,\n      "video_prompts": [\n        ""\n      ],\n'
                '      "cut": [true]\n    }',
            )
        ),
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_changes_nothing_else(front_end: FrontEnd, name):
    (function, *given), expected = EDITS[name]
    assert edited(front_end, (function, STORY, *given)) == [expected]


def random_script(rng: random.Random) -> dict:
    scenes = []
    for number in range(1, rng.randrange(2, 5)):
        count = rng.randrange(1, 5)
        scene = {"scene_num": number, "video_prompts": [f"p{rng.random()}" for _ in range(count)]}
        scene["cut"] = [rng.choice([True, False, "True"]) for _ in range(count)]
        for name, some in (
            ("transition", ["cut", "first_frame"]),
            ("length", [81, 33]),
            ("seed", [2**64 - 1, 7]),
            ("characters", [["Ann", "Bob"], []]),
        ):
            if rng.random() < 0.6:
                scene[name] = rng.choice([None, [rng.choice([None, *some]) for _ in range(count)]])
        scene["_note"] = [1, {"a": 2}]
        scenes.append(scene)
    return {"story_name": "S", "scenes": scenes, "_end": {}}


def rows(record: dict) -> list[list[list]]:
    """The entries of each shot of each scene; null where there is no list."""
    scenes = []
    for scene in record["scenes"]:
        count = len(scene["video_prompts"])
        columns = [scene.get(name) or [None] * count for name in LISTS]
        assert all(len(column) == count for column in columns)
        scenes.append([list(row) for row in zip(*columns, strict=True)])
    return scenes


def test_any_edit_of_any_script(front_end: FrontEnd):
    """Against lists of shots; what a comment says survives everything but the deletion of its shot."""
    calls, expected = [], []
    for seed in range(400):
        rng = random.Random(seed)
        record, comments = random_script(rng), Comments()
        text = written(record, rng, comments)
        assert _load(text) == record
        shots = rows(record)
        scene = rng.randrange(len(shots))
        shot = rng.randrange(len(shots[scene]))
        place = {"scene": scene, "shot": shot}
        kept = True
        match rng.randrange(4):
            case 0:
                target = rng.randrange(len(shots))
                moved = shots[scene].pop(shot)
                to = rng.randrange(len(shots[target]) + 1)
                shots[target].insert(to, moved)
                kept = all(shots)
                calls.append(("moveShot", text, place, {"scene": target, "shot": to}))
            case 1:
                del shots[scene][shot]
                kept = False
                calls.append(("removeShot", text, place))
            case 2:
                column = rng.randrange(len(LISTS))
                kept = not isinstance(shots[scene][shot][column], list)  # a comment in it goes with it
                shots[scene][shot][column] = rng.choice(["x", None, True, 5, ["y"]])
                calls.append(("setEntry", text, place, LISTS[column], json.dumps(shots[scene][shot][column])))
            case 3:
                shots[scene].append(["", True, None, None, None, None])
                calls.append(("addShot", text, scene))
        expected.append((copy.deepcopy([scene for scene in shots if scene]), comments.count if kept else None))
    for call, made, (shots, comments) in zip(calls, edited(front_end, *calls), expected, strict=True):
        record = _load(made)
        assert rows(record) == shots, (call, made)
        assert [record["story_name"], record["_end"]] == ["S", {}]
        assert all(scene["_note"] == [1, {"a": 2}] for scene in record["scenes"])
        if comments is not None:
            assert [made.count(f" c{number} ") for number in range(1, comments + 1)] == [1] * comments, (call, made)
