"""Story scripts: what is read, and that every fault of a script is named, whatever the text."""

import copy
import json
import random
import re
import string
import time
from pathlib import Path

import jsonschema
import pytest

from storymem_core.script import MAX_LENGTH, MAX_SCENE, MAX_SEED, Fault, Shot, Story, StoryError, parse_story
from storymem_core.transitions import OVERLAP

REPO = Path(__file__).parents[2]
EXAMPLE = REPO / "example_workflows" / "stories" / "lighthouse.json"
SCHEMA = json.loads((REPO / "storymem_core" / "story.schema.json").read_text())


def script():
    """A valid script with every field."""
    return {
        "story_name": "The Fox",
        "story_overview": "A fox crosses the ice.",
        "references": {"Ann": "cast/ann.png", "安娜": "b.jpg"},
        "scenes": [
            {
                "scene_num": 1,
                "video_prompts": ["a fox // in snow", "she runs", 'a "lake" /* of ice */, ]'],
                "cut": [True, "False", False],
                "transition": ["cut", None, "motion_frames"],
                "length": [81, None, 9],
                "seed": [None, 7, MAX_SEED],
                "characters": [["Ann"], None, ["Bob", "Ann"]],
            },
            {"scene_num": 2, "video_prompts": ["dusk"], "cut": ["TRUE"]},
            {"scene_num": 7, "video_prompts": ["night", "dawn"], "cut": ["false", "true "], "length": None},
        ],
    }


def faults_of(text):
    with pytest.raises(StoryError) as caught:
        parse_story(text)
    lines = [str(fault) for fault in caught.value.faults]
    assert str(caught.value).split("\n") == lines and lines
    return lines


# --- what is read


def test_every_field_is_read():
    assert parse_story(json.dumps(script())) == Story(
        "The Fox",
        "A fox crosses the ice.",
        (
            Shot(1, 1, 1, "a fox // in snow", True, "cut", 81, None, ("Ann",)),
            Shot(2, 1, 2, "she runs", False, None, None, 7, ()),
            Shot(3, 1, 3, 'a "lake" /* of ice */, ]', False, "motion_frames", 9, MAX_SEED, ("Bob", "Ann")),
            Shot(4, 2, 1, "dusk", True, "cut", None, None, ()),
            Shot(5, 7, 1, "night", False, None, None, None, ()),
            Shot(6, 7, 2, "dawn", True, "cut", None, None, ()),
        ),
        (("Ann", "cast/ann.png"), ("安娜", "b.jpg")),
    )


def test_a_story_is_a_value():
    story = parse_story(json.dumps(script()))
    assert len({story, parse_story(json.dumps(script(), indent=4))}) == 1
    with pytest.raises(AttributeError):
        story.shots[0].prompt = "another"


def test_the_smallest_story():
    story = parse_story('{"story_name": "S", "scenes": [{"scene_num": 1, "video_prompts": [" a "], "cut": [true]}]}')
    assert story == Story("S", "", (Shot(1, 1, 1, "a", True, "cut"),))


@pytest.mark.parametrize("word", ["True", "true", "TRUE", "tRuE", " true\n", True])
def test_spellings_of_true_and_false(word):
    record = script()
    record["scenes"][1]["cut"] = [word]
    assert parse_story(json.dumps(record)).shots[3].cut is True
    if isinstance(word, str):
        record["scenes"][1]["cut"] = [re.sub("(?i)true", lambda match: "fAlSe", word)]
        assert parse_story(json.dumps(record)).shots[3].cut is False


def test_notes_are_ignored():
    record = script()
    plain = parse_story(json.dumps(record))
    record |= {"$schema": "story.schema.json", "_author": {"deep": [[[]]]}}
    record["scenes"][1] |= {"_mood": None, "$comment": "x"}
    assert parse_story(json.dumps(record)) == plain


def test_absent_and_null_are_the_same():
    record = script()
    for name in ("transition", "length", "seed", "characters"):
        record["scenes"][0][name] = None
    record |= {"story_overview": None, "references": None}
    nulls = parse_story(json.dumps(record))
    for name in ("transition", "length", "seed", "characters"):
        del record["scenes"][0][name]
    del record["story_overview"], record["references"]
    assert parse_story(json.dumps(record)) == nulls


def test_whole_numbers_may_be_written_as_floats():
    record = script()
    record["scenes"][0]["length"] = [81.0, 8.1e1, None]
    shots = parse_story(json.dumps(record)).shots
    assert [type(shot.length) for shot in shots[:2]] == [int, int] and shots[1].length == 81


def test_the_shipped_story():
    story = parse_story(EXAMPLE.read_text(encoding="utf-8"))
    assert len(story.shots) >= 5 and len({shot.scene for shot in story.shots}) == 2
    assert [shot.transition for shot in story.shots].count("first_frame") == 1
    assert [shot.transition for shot in story.shots].count("motion_frames") == 1
    assert len(story.references) == 1 and any(story.references[0][0] in shot.characters for shot in story.shots)
    assert all(40 <= len(shot.prompt.split()) <= 60 for shot in story.shots)


# --- comments and trailing commas

INTERJECTIONS = [
    "",
    " ",
    "\n",
    "\t",
    "/**/",
    "/* , ] */",
    '/* " */',
    "// it's\n",
    '// "\r\n',
    "/* // */",
    "/***/",
    "//*\n",
]


def written(value, rng):
    """JSON with comments between the tokens, and trailing commas."""

    def space():
        return "".join(rng.choices(INTERJECTIONS, k=rng.randrange(3)))

    if not isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=rng.random() < 0.5)
    items = value
    if isinstance(value, dict):
        items = [f"{json.dumps(name)}{space()}:{space()}{written(item, rng)}" for name, item in value.items()]
    else:
        items = [written(item, rng) for item in value]
    comma = "," + space() if items and rng.random() < 0.5 else ""
    inside = ",".join(space() + item + space() for item in items) + comma
    return ("[{}]" if isinstance(value, list) else "{{{}}}").format(inside)


def test_comments_and_trailing_commas_change_nothing():
    plain = parse_story(json.dumps(script()))
    for seed in range(200):
        rng = random.Random(seed)
        around = rng.choice(["", "// end", "/* end */", "\n\n"])
        text = "\ufeff" * (seed % 2) + "// the fox\n" + written(script(), rng) + around
        assert parse_story(text) == plain, text


@pytest.mark.parametrize(
    "prompt", ["http://a/b", "/* not a comment */", "a, ]", '\\" // "', "\\\\", '"', "'//'", ",}", "\\", "*/ /*", "\n"]
)
def test_texts_keep_what_looks_like_a_comment(prompt):
    record = script()
    record["scenes"][1]["video_prompts"] = [f"x {prompt} x"]
    text = json.dumps(record).replace("]}, {", '], /* " */}, // "\n{')
    assert parse_story(text).shots[3].prompt == f"x {prompt} x"


# --- malformed scripts

JSON_REMEDY = "Look for a missing or extra quote, comma or bracket there or just before"


def scene(place, **fields):
    """A change of the script: fields of one scene; ... removes a field."""

    def change(record):
        record["scenes"][place - 1] |= fields
        for name in [name for name, value in fields.items() if value is ...]:
            del record["scenes"][place - 1][name]

    return change


def story(**fields):
    """A change of the script: its own fields; ... removes a field."""

    def change(record):
        record |= fields
        for name in [name for name, value in fields.items() if value is ...]:
            del record[name]

    return change


def reference(label, file):
    return story(references={label: file})


NO_FILE = "is not a file name inside a folder. Name an image in ComfyUI's input folder, such as ann.png or cast/ann.png"
WORD = "Write a text in double quotes"
NUMBER = "Write a number from"
LIST = "is not a list. Write a list in [ ]"
BOOL = "is neither true nor false. Write true for a cut, false to continue a shot"
KINDS = "is no transition. Write one of cut, first_frame, motion_frames, or null"
HALF = r"contains half of a character. Write the character itself instead of \u codes"
CONTROL = "contains a line break or control character. Write it on one line"

# name: (the script's text, or a change of the valid one; what its faults must be)
MALFORMED = {
    # not JSON
    "nothing": ("", ["script: it is empty. Write a story, or name a file in the input folder"]),
    "white space": ("\ufeff \n\t", ["script: it is empty. Write a story, or name a file in the input folder"]),
    "no text": (None, ["script: it is NoneType, not text. Give the text of the script"]),
    "bytes": (b"\0\0", ["script: it is bytes, not text. Give the text of the script"]),
    "prose": ("Once upon a time", [f"line 1, column 1: not JSON: Expecting value. {JSON_REMEDY}"]),
    "null bytes": ("\0\0\0", [f"line 1, column 1: not JSON: Expecting value. {JSON_REMEDY}"]),
    "a missing comma": (
        '{\n  "story_name": "S" /* a,\n b */ "scenes": []}',
        [f"line 3, column 7: not JSON: Expecting ',' delimiter. {JSON_REMEDY}"],
    ),
    "an unclosed bracket": (
        '{"story_name": "S", // a\r\n "scenes": [',
        [f"line 2, column 13: not JSON: Expecting value. {JSON_REMEDY}"],
    ),
    "an unclosed text": (
        '{"story_name": "S}',
        [f"line 1, column 16: not JSON: Unterminated string starting at. {JSON_REMEDY}"],
    ),
    "an unclosed comment": (
        '{\n "story_name": /* "S"}',
        [f"line 2, column 16: not JSON: Comment without an end. {JSON_REMEDY}"],
    ),
    "a comment that only seems to end": (
        "{} /*/",
        [f"line 1, column 4: not JSON: Comment without an end. {JSON_REMEDY}"],
    ),
    "a line break in a text": (
        '{"story_name": "S\n"}',
        [
            "line 1, column 18: not JSON: Invalid control character at. "
            r"Write a line break inside a text as \n, or close the quote"
        ],
    ),
    "two stories": ("{}\n{}", [f"line 2, column 1: not JSON: Extra data. {JSON_REMEDY}"]),
    "a comma after nothing": ("[ , ]", [f"line 1, column 3: not JSON: Expecting value. {JSON_REMEDY}"]),
    "python words": (
        "{'a': None}",
        [f"line 1, column 2: not JSON: Expecting property name enclosed in double quotes. {JSON_REMEDY}"],
    ),
    "deep nesting": ("[" * 100_000, ["script: brackets are nested too deeply. A story needs five levels"]),
    "deep objects": ('{"a":' * 100_000, ["script: brackets are nested too deeply. A story needs five levels"]),
    # the story
    "a list": ("[]", ["story: a list is not an object. Write an object in { }"]),
    "a number": ("-Infinity", ["story: -Infinity is not an object. Write an object in { }"]),
    "an empty object": (
        "{}",
        ["story, story_name: it is missing. Add it", "story, scenes: it is missing. Add it"],
    ),
    "no name": (story(story_name=...), ["story, story_name: it is missing. Add it"]),
    "null for a name": (story(story_name=None), [f"story, story_name: null is not a text. {WORD}"]),
    "a blank name": (story(story_name="\u00a0 "), ["story, story_name: it is empty. Write a text"]),
    "a name of two lines": (story(story_name="a\nb"), [rf"story, story_name: 'a\nb' {CONTROL}"]),
    "a number for an overview": (story(story_overview=1), [f"story, story_overview: 1 is not a text. {WORD}"]),
    "no scenes": (story(scenes=[]), ["story, scenes: it is empty. Write at least one"]),
    "scenes by name": (story(scenes={"1": {}}), [f"story, scenes: an object {LIST}"]),
    "a misspelt field": (story(story_nam="S"), ["story: unknown field 'story_nam'. Did you mean story_name"]),
    "a field of another case": (story(REFERENCES={}), ["story: unknown field 'REFERENCES'. Did you mean references"]),
    "a foreign field": (
        story(author="me"),
        ["story: unknown field 'author'. Remove it, or begin its name with _ to keep it as a note"],
    ),
    "a very long field": (
        story(**{"x" * 100_000: 1}),
        [f"story: unknown field '{'x' * 40}…'. Remove it, or begin its name with _ to keep it as a note"],
    ),
    "a field given twice": (
        lambda record: json.dumps(record)[:-1] + ', "story_name": "Other"}',
        ["story: 'story_name' is given more than once. Keep one of them"],
    ),
    # references
    "references in a list": (
        story(references=["ann.png"]),
        ["story, references: a list is not an object. Write an object in { }"],
    ),
    "a reference that climbs": (
        reference("Ann", "cast/../../ann.png"),
        [f"story, references, 'Ann': 'cast/../../ann.png' {NO_FILE}"],
    ),
    "an absolute reference": (
        reference("Ann", "/etc/ann.png"),
        [f"story, references, 'Ann': '/etc/ann.png' {NO_FILE}"],
    ),
    "a reference on a drive": (reference("Ann", "C:ann.png"), [f"story, references, 'Ann': 'C:ann.png' {NO_FILE}"]),
    "a reference on a share": (
        reference("Ann", r"\\host\ann.png"),
        [rf"story, references, 'Ann': '\\\\host\\ann.png' {NO_FILE}"],
    ),
    "a folder for a reference": (reference("Ann", "cast/"), [f"story, references, 'Ann': 'cast/' {NO_FILE}"]),
    "no file for a reference": (reference("Ann", None), [f"story, references, 'Ann': null is not a text. {WORD}"]),
    "a nameless reference": (reference(" ", "a.png"), ["story, references: it is empty. Write a text"]),
    "one label for two references": (
        story(references={"Ann": "a.png", " Ann": "b.png"}),
        ["story, references: 'Ann' is named more than once. Name everyone once"],
    ),
    "a reference given twice": (
        lambda record: json.dumps(record).replace('"Ann": "cast', '"Ann": "b.png", "Ann": "cast'),
        ["story, references: 'Ann' is given more than once. Keep one of them"],
    ),
    # scenes
    "a text for a scene": (
        lambda record: record["scenes"].insert(1, "later"),
        ["scene 2: 'later' is not an object. Write an object in { }"],
    ),
    "no scene number": (scene(2, scene_num=...), ["scene 2, scene_num: it is missing. Add it"]),
    "a text for a scene number": (
        scene(2, scene_num="2"),
        [f"scene 2, scene_num: '2' is not a whole number. {NUMBER} 0 to 9999, without quotes"],
    ),
    "a negative scene number": (
        scene(2, scene_num=-1),
        [f"scene 2, scene_num: -1 is out of range. {NUMBER} 0 to 9999"],
    ),
    "true for a scene number": (
        scene(2, scene_num=True),
        [f"scene 2, scene_num: true is not a whole number. {NUMBER} 0 to 9999, without quotes"],
    ),
    "one number for two scenes": (
        scene(3, scene_num=2),
        ["scene 3 (scene_num 2): an earlier scene has the same scene_num. Give every scene its own"],
    ),
    "a misspelt field of a scene": (
        scene(2, lenght=[81]),
        ["scene 2: unknown field 'lenght'. Did you mean length"],
    ),
    "a field of the story in a scene": (
        scene(3, references={}),
        ["scene 3 (scene_num 7): unknown field 'references'. Remove it, or begin its name with _ to keep it as a note"],
    ),
    "no prompts": (scene(2, video_prompts=...), ["scene 2, video_prompts: it is missing. Add it"]),
    "an empty list of prompts": (
        scene(2, video_prompts=[], cut=[]),
        ["scene 2, video_prompts: it is empty. Write at least one"],
    ),
    "a text for the prompts": (scene(2, video_prompts="dusk"), [f"scene 2, video_prompts: 'dusk' {LIST}"]),
    "no cuts": (scene(3, cut=...), ["scene 3 (scene_num 7), cut: it is missing. Add it"]),
    "one cut for a scene": (scene(3, cut=True), [f"scene 3 (scene_num 7), cut: true {LIST}"]),
    "too few cuts": (
        scene(3, cut=[True]),
        ["scene 3 (scene_num 7), cut: it has 1 entries, video_prompts has 2. Write one entry for every prompt"],
    ),
    "too many cuts": (
        scene(2, cut=[True, False]),
        ["scene 2, cut: it has 2 entries, video_prompts has 1. Write one entry for every prompt"],
    ),
    # shots
    "an empty prompt": (
        scene(3, video_prompts=["night", ""]),
        ["scene 3 (scene_num 7), shot 2, video_prompts: it is empty. Write a text"],
    ),
    "null for a prompt": (
        scene(2, video_prompts=[None]),
        [f"scene 2, shot 1, video_prompts: null is not a text. {WORD}"],
    ),
    "a prompt in a list": (
        scene(2, video_prompts=[["dusk"]]),
        [f"scene 2, shot 1, video_prompts: a list is not a text. {WORD}"],
    ),
    "half a character": (
        scene(2, video_prompts=["dusk \ud800"]),
        [rf"scene 2, shot 1, video_prompts: 'dusk \ud800' {HALF}"],
    ),
    "null for a cut": (scene(2, cut=[None]), [f"scene 2, shot 1, cut: null {BOOL}"]),
    "1 for a cut": (scene(2, cut=[1]), [f"scene 2, shot 1, cut: 1 {BOOL}"]),
    "yes for a cut": (scene(2, cut=["yes"]), [f"scene 2, shot 1, cut: 'yes' {BOOL}"]),
    "a continued beginning": (
        scene(1, cut=[False, False, False], transition=...),
        ["scene 1, shot 1, cut: the first shot of a story has nothing to continue. Write true"],
    ),
    "a cut with a continuation": (
        scene(2, transition=["first_frame"]),
        ["scene 2, shot 1, transition: first_frame contradicts cut true. Write null for the transition of a cut"],
    ),
    "a continuation with a cut": (
        scene(3, transition=["cut", "cut"]),
        [
            "scene 3 (scene_num 7), shot 1, transition: cut contradicts cut false. "
            "Write true for the cut, or another transition"
        ],
    ),
    "an unknown transition": (scene(2, transition=["fade"]), [f"scene 2, shot 1, transition: 'fade' {KINDS}"]),
    "an object for a transition": (scene(2, transition=[{}]), [f"scene 2, shot 1, transition: an object {KINDS}"]),
    "one length for a scene": (scene(2, length=81), [f"scene 2, length: 81 {LIST}"]),
    "too many lengths": (
        scene(2, length=[None, 81]),
        ["scene 2, length: it has 2 entries, video_prompts has 1. Write one entry for every prompt"],
    ),
    "a length that is not 4n+1": (
        scene(2, length=[80]),
        ["scene 2, shot 1, length: 80 frames are not 4n+1. Write 77 or 81"],
    ),
    "a short length that is not 4n+1": (
        scene(2, length=[2]),
        ["scene 2, shot 1, length: 2 frames are not 4n+1. Write 1 or 5"],
    ),
    "no frames": (scene(2, length=[0]), [f"scene 2, shot 1, length: 0 is out of range. {NUMBER} 1 to 16381"]),
    "more frames than the host takes": (
        scene(2, length=[16385]),
        [f"scene 2, shot 1, length: 16385 is out of range. {NUMBER} 1 to 16381"],
    ),
    "half a frame": (
        scene(2, length=[81.5]),
        [f"scene 2, shot 1, length: 81.5 is not a whole number. {NUMBER} 1 to 16381, without quotes"],
    ),
    "not a number": (
        scene(2, length=[float("nan")]),
        [f"scene 2, shot 1, length: NaN is not a whole number. {NUMBER} 1 to 16381, without quotes"],
    ),
    "no new frame": (
        scene(1, length=[81, 81, 5]),
        ["scene 1, shot 3, length: all 5 frames repeat the shot before. Write 9 or more"],
    ),
    "no new frame after one": (
        scene(1, length=[1, 1, 9], transition=[None, "first_frame", None]),
        ["scene 1, shot 2, length: all 1 frames repeat the shot before. Write 5 or more"],
    ),
    "a seed of 65 bits": (
        scene(2, seed=[2**64]),
        [f"scene 2, shot 1, seed: 18446744073709551616 is out of range. {NUMBER} 0 to {MAX_SEED}"],
    ),
    "a negative seed": (scene(2, seed=[-1]), [f"scene 2, shot 1, seed: -1 is out of range. {NUMBER} 0 to {MAX_SEED}"]),
    "a seed of 10000 digits": (
        lambda record: json.dumps(record).replace(str(MAX_SEED), "9" * 10_000),
        [f"scene 1, shot 3, seed: Infinity is not a whole number. {NUMBER} 0 to {MAX_SEED}, without quotes"],
    ),
    "a seed of 40 digits": (
        scene(2, seed=[10**39]),
        [f"scene 2, shot 1, seed: 1e+39 is out of range. {NUMBER} 0 to {MAX_SEED}"],
    ),
    "characters without brackets": (
        scene(2, characters=["Ann"]),
        [f"scene 2, shot 1, characters: 'Ann' {LIST}"],
    ),
    "a number for a character": (
        scene(2, characters=[["Ann", 2]]),
        [f"scene 2, shot 1, characters: 2 is not a text. {WORD}"],
    ),
    "a character named twice": (
        scene(2, characters=[["Ann", "Bob", "Ann "]]),
        ["scene 2, shot 1, characters: 'Ann' is named more than once. Name everyone once"],
    ),
    "a character of two lines": (
        scene(2, characters=[["Ann\nBob"]]),
        [rf"scene 2, shot 1, characters: 'Ann\nBob' {CONTROL}"],
    ),
    # many at once, in the order of the script
    "faults in every field of the story": (
        {"storyname": "S", "story_name": 3, "story_overview": [], "scenes": None, "references": {"a": "..", "": 1}},
        [
            "story: unknown field 'storyname'. Did you mean story_name",
            f"story, story_name: 3 is not a text. {WORD}",
            f"story, story_overview: a list is not a text. {WORD}",
            f"story, scenes: null {LIST}",
            "story, references: it is empty. Write a text",
            f"story, references, 'a': '..' {NO_FILE}",
            f"story, references, '': 1 is not a text. {WORD}",
        ],
    ),
    "faults in every scene": (
        {
            "story_name": "S",
            "scenes": [
                None,
                {"scene_num": 1.5, "prompts": ["a"], "cut": ["True"]},
                {"scene_num": 5, "video_prompts": ["a", 1, ""], "cut": ["maybe", False], "seed": "none"},
                {
                    "scene_num": 5,
                    "video_prompts": ["a", "b"],
                    "cut": [True, False],
                    "transition": ["motion_frames", "zoom"],
                    "length": [6, 2**70],
                    "seed": [-2, []],
                    "characters": [[None, "A", "A"], "B", {}],
                },
            ],
        },
        [
            "scene 1: null is not an object. Write an object in { }",
            f"scene 2, scene_num: 1.5 is not a whole number. {NUMBER} 0 to 9999, without quotes",
            "scene 2: unknown field 'prompts'. Did you mean video_prompts",
            "scene 2, video_prompts: it is missing. Add it",
            f"scene 3 (scene_num 5), shot 2, video_prompts: 1 is not a text. {WORD}",
            "scene 3 (scene_num 5), shot 3, video_prompts: it is empty. Write a text",
            "scene 3 (scene_num 5), cut: it has 2 entries, video_prompts has 3. Write one entry for every prompt",
            f"scene 3 (scene_num 5), shot 1, cut: 'maybe' {BOOL}",
            f"scene 3 (scene_num 5), seed: 'none' {LIST}",
            "scene 4 (scene_num 5): an earlier scene has the same scene_num. Give every scene its own",
            f"scene 4 (scene_num 5), shot 2, transition: 'zoom' {KINDS}",
            "scene 4 (scene_num 5), shot 1, length: 6 frames are not 4n+1. Write 5 or 9",
            f"scene 4 (scene_num 5), shot 2, length: {2**70} is out of range. {NUMBER} 1 to 16381",
            f"scene 4 (scene_num 5), shot 1, seed: -2 is out of range. {NUMBER} 0 to {MAX_SEED}",
            "scene 4 (scene_num 5), shot 2, seed: a list is not a whole number. "
            f"{NUMBER} 0 to {MAX_SEED}, without quotes",
            "scene 4 (scene_num 5), characters: it has 3 entries, video_prompts has 2. "
            "Write one entry for every prompt",
            f"scene 4 (scene_num 5), shot 2, characters: 'B' {LIST}",
            f"scene 4 (scene_num 5), shot 3, characters: an object {LIST}",
            "scene 4 (scene_num 5), shot 1, transition: motion_frames contradicts cut true. "
            "Write null for the transition of a cut",
            f"scene 4 (scene_num 5), shot 1, characters: null is not a text. {WORD}",
            "scene 4 (scene_num 5), shot 1, characters: 'A' is named more than once. Name everyone once",
        ],
    ),
    "a thousand faults": (
        {
            "story_name": "S",
            "scenes": [{"scene_num": n, "video_prompts": [""], "cut": [0]} for n in range(1, 501)],
        },
        [
            line
            for n in range(1, 501)
            for line in (
                f"scene {n}, shot 1, video_prompts: it is empty. Write a text",
                f"scene {n}, shot 1, cut: 0 {BOOL}",
            )
        ],
    ),
}


def malformed_text(what):
    if isinstance(what, dict):
        return json.dumps(what)
    if not callable(what):
        return what
    record = script()
    changed = what(record)
    return changed if isinstance(changed, str) else json.dumps(record)


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_scripts(name):
    what, expected = MALFORMED[name]
    assert faults_of(malformed_text(what)) == expected


def test_there_are_enough_malformed_scripts():
    parse_story(json.dumps(script()))
    assert len(MALFORMED) >= 40


def test_a_fault_has_its_parts():
    with pytest.raises(StoryError) as caught:
        parse_story(malformed_text(scene(2, cut=["no"])))
    remedy = "Write true for a cut, false to continue a shot"
    assert caught.value.faults == (Fault("scene 2, shot 1, cut", "'no' is neither true nor false", remedy),)


HOSTILE = {
    "unclosed texts": '["' * 50_000,
    "quotes": '"' * 100_001,
    "escaped quotes": '"' + '\\"' * 50_000,
    "unclosed comments": "/*/" * 33_000,
    "line comments": "//" * 50_000,
    "commas": "," * 100_000,
    "commas and spaces": ", " * 50_000,
    "open lists": "[ " * 50_000,
    "spaces": "[" + " " * 100_000,
    "one long text": "x" * 100_000,
    "parts of a file": '{"references": {"a": "' + "./" * 50_000 + 'a.png"}}',
    "fields": "{" + ",".join(f'"scene {n}": 1' for n in range(6000)) + "}",
    "labels": '{"scenes": [{"characters": [[' + ",".join(f'"{n}"' for n in range(15_000)) + "]]}]}",
    "scenes": '{"scenes": [' + "{}," * 30_000 + "]}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_long_texts_take_little_time(name):
    start = time.monotonic()
    faults_of(HOSTILE[name])
    assert time.monotonic() - start < 10  # what is quadratic in 100 000 characters takes minutes


# --- any other text

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+|\s+')
VALUES = [
    *(None, True, False, 0, 1, 5, 81, 80, -1, 0.5, 81.0, 1e300, 2**64, 2**63, 16381, 16385, 9999),
    *(float("nan"), float("inf"), "", " ", "x", "True", "false\n", "cut", "first_frame", "motion_frames", "Ann"),
    *("a\nb", "\ud800", "😀", "../a", "a/b.png", "/a", "a//b", "C:a", ". .", "a/", "安娜", "x" * 300, "_x", "$x"),
    *([], {}, [None], [True], [[]], ["x"], [81], [{}], {"x": "y.png"}, {"": ""}),
]
JUNK = ["null", "NaN", "-", "1e999", '"\\ud800"', '"', "//", "/*", "*/", "[", "]", "{", "}", ",", ":", "\\", "\0", "'"]


def story_or_faults(text):
    """The faults, [] for a valid script: nothing else may happen."""
    try:
        result = parse_story(text)
    except StoryError as error:
        for fault in error.faults:
            line = str(fault)
            assert fault.where and fault.problem and fault.remedy
            assert line.isprintable() and len(line) < 400, "one line that can be shown and sent"
            line.encode()
        assert error.faults
        return list(error.faults)
    assert isinstance(result, Story) and result.shots and all(shot.prompt for shot in result.shots)
    assert result.shots[0].cut and [shot.number for shot in result.shots] == list(range(1, len(result.shots) + 1))
    return []


def test_any_change_of_the_text():
    outcomes = {True: 0, False: 0}
    for seed in range(2000):
        rng = random.Random(seed)
        tokens = TOKEN.findall(json.dumps(script()))
        for _ in range(rng.choice([1, 1, 2, 5])):
            i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
            change = rng.randrange(5)
            if change == 0:
                del tokens[i]
            elif change == 1:
                tokens.insert(i, tokens[i])
            elif change == 2:
                tokens[i], tokens[j] = tokens[j], tokens[i]
            elif change == 3:
                tokens[i] = rng.choice(JUNK) if rng.random() < 0.5 else json.dumps(rng.choice(VALUES))
            else:
                tokens = tokens[:i] if rng.random() < 0.2 else [*tokens[:i], rng.choice(JUNK), *tokens[i:]]
        outcomes[not story_or_faults("".join(tokens))] += 1
    assert min(outcomes.values()) > 100, outcomes


def test_any_text():
    alphabet = string.printable + '"""{{}}[[]],,::\\/*' + "\ud800\0\ufeff安"
    for seed in range(1000):
        rng = random.Random(seed)
        story_or_faults("".join(rng.choices(alphabet, k=rng.randrange(200))))


# --- the schema

# what JSON Schema has no words for
BEYOND_SCHEMA = re.compile(
    r"it has \d+ entries, video_prompts has \d+|the first shot of a story has nothing to continue"
    r"|an earlier scene has the same scene_num|\d+ frames are not 4n\+1|\w+ contradicts cut (true|false)"
    r"|all \d+ frames repeat the shot before|.* is named more than once|.* is given more than once"
)


@pytest.fixture(scope="module")
def schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def check_agreement(schema, text):
    """Parser and schema agree: True for valid, False for invalid, None where only the parser can tell."""
    faults = story_or_faults(text)
    expressible = [fault for fault in faults if not BEYOND_SCHEMA.fullmatch(fault.problem)]
    valid = schema.is_valid(json.loads(text))
    if not faults:
        assert valid, text
        return True
    if expressible:
        assert not valid, (text, expressible)
        return False
    return False if not valid else None


def places(value):
    """All (container, key) of a nested value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def mutated(rng):
    record = script()
    for _ in range(rng.choice([1, 1, 2, 4])):
        holder, key = rng.choice(places(record) or [({}, "none")])
        names = [*SCHEMA["properties"], *SCHEMA["$defs"]["scene"]["properties"], "_note", "$note", "other"]
        change = rng.randrange(4)
        if change == 0 and key in (holder if isinstance(holder, dict) else range(len(holder))):
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[rng.choice(names)] = copy.deepcopy(rng.choice(VALUES))
        elif change == 1:
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return record


def test_schema_and_parser_agree_on_changed_scripts(schema):
    outcomes = {True: 0, False: 0, None: 0}
    for seed in range(1000):
        outcomes[check_agreement(schema, json.dumps(mutated(random.Random(seed))))] += 1
    assert min(outcomes.values()) > 20, outcomes


def test_schema_and_parser_agree_on_malformed_scripts(schema):
    outcomes = []
    for what, _ in MALFORMED.values():
        text = malformed_text(what)
        try:
            json.loads(text)
        except (ValueError, TypeError, RecursionError):
            continue
        outcomes.append(check_agreement(schema, text))
        assert outcomes[-1] is not True
    assert outcomes.count(False) > 40 and outcomes.count(None) > 5


def test_schema_accepts_the_valid(schema):
    for text in (json.dumps(script()), EXAMPLE.read_text(encoding="utf-8")):
        assert check_agreement(schema, text) is True


@pytest.mark.parametrize("part", ["", ".", "..", "...", " ", ". ", " .", "a", "a.", ".a", " a", "a ", "a b", "ä", ":"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_schema_and_parser_agree_on_file_names(schema, part, separator):
    for name in (part, separator + part, part + separator, f"x{separator}{part}{separator}y", f"x{separator}{part}"):
        record = script()
        record["references"] = {"Ann": name}
        allowed = all(piece.strip(". ") for piece in re.split(r"[/\\]", name)) and ":" not in name
        assert check_agreement(schema, json.dumps(record)) is allowed, name


def test_schema_has_the_limits_of_the_code():
    properties = SCHEMA["$defs"]["scene"]["properties"]
    assert properties["transition"]["items"]["enum"] == [*OVERLAP, None]
    assert properties["length"]["items"]["maximum"] == MAX_LENGTH
    assert properties["seed"]["items"]["maximum"] == MAX_SEED
    assert properties["scene_num"]["maximum"] == MAX_SCENE
