"""The story script: JSON text -> Story, or all of its faults at once.

story.schema.json describes the format. On top of JSON, // and /* */ comments and trailing commas are accepted,
and fields whose name begins with _ or $ are notes: ignored. Every other unknown field is a fault, for it is most
likely a misspelt one that would have no effect.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

from .transitions import OVERLAP

MAX_LENGTH = 16381  # the largest 4n+1 that ComfyUI's size inputs take
MAX_SEED = 2**64 - 1
MAX_SCENE = 9999


@dataclass(frozen=True)
class Shot:
    """One shot. number: 1..N over the story; scene: its scene's scene_num; index: 1.. in its scene.

    cut: whether it begins with a cut. transition: a key of OVERLAP ("cut" for every cut), None for the default
    continuation. length: frames, 4n+1, and seed: 0..2**64-1, None for the default. characters: labels of who
    and what it shows, in the order of the script.
    """

    number: int
    scene: int
    index: int
    prompt: str
    cut: bool
    transition: str | None = None
    length: int | None = None
    seed: int | None = None
    characters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Story:
    """A valid story. references: pairs of a label and the name of an image file in ComfyUI's input folder."""

    name: str
    overview: str
    shots: tuple[Shot, ...]
    references: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Fault:
    """One fault of a script. Scenes and shots are counted as they stand in the script."""

    where: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}. {self.remedy}"


class StoryError(ValueError):
    """A script that cannot be used; the message is one line per fault."""

    def __init__(self, faults: list[Fault]):
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


def parse_story(text: str) -> Story:
    """Read a story script. Raises StoryError, and nothing else, with every fault it has.

    Of a text that is not JSON at all, the first place where that shows: line and column.
    """
    record = _load(text)
    faults = _Faults()
    story = _story(record, faults)
    if faults:
        raise StoryError(faults)
    return story


# --- JSON with comments and trailing commas

# An unclosed string or comment matches to the end, so that the search never starts again inside it.
_STRING = r'"(?:[^"\\]|\\.)*"?'
_COMMENTS = re.compile(_STRING + r"|//[^\r\n]*|/\*.*?(\*/|\Z)", re.DOTALL)
# "[," and "{," are matched to be kept: a comma after nothing is a slip, not a trailing comma
_TRAILING_COMMAS = re.compile(_STRING + r"|[\[{]\s*,|,(?=\s*[\]}])", re.DOTALL)


class _Object(dict):
    """A JSON object that remembers which of its names were given more than once."""

    def __init__(self, pairs: list[tuple[str, object]]):
        super().__init__(pairs)
        self.repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]


def _load(text: str) -> object:
    if not isinstance(text, str):
        raise StoryError([Fault("script", f"it is {type(text).__name__}, not text", "Give the text of the script")])
    if not text.strip("\ufeff \t\r\n"):
        raise StoryError([Fault("script", "it is empty", "Write a story, or name a file in the input folder")])
    try:
        plain = _TRAILING_COMMAS.sub(_blank, _COMMENTS.sub(_blank, text.removeprefix("\ufeff")))
        return json.loads(plain, object_pairs_hook=_Object, parse_int=_number)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        remedy = "Look for a missing or extra quote, comma or bracket there or just before"
        if error.msg.startswith("Invalid control"):
            remedy = r"Write a line break inside a text as \n, or close the quote"
        raise StoryError([Fault(where, f"not JSON: {error.msg}", remedy)]) from error
    except RecursionError as error:
        raise StoryError([Fault("script", "brackets are nested too deeply", "A story needs five levels")]) from error


def _blank(match: re.Match) -> str:
    """Spaces for a comment or a trailing comma, so that what follows keeps its line and column."""
    token = match[0]
    if token[0] in '"[{':
        return token
    if match.lastindex and not match[1]:
        raise json.JSONDecodeError("Comment without an end", match.string, match.start())
    return re.sub(r"[^\r\n]", " ", token)


def _number(digits: str) -> int | float:
    # int refuses thousands of digits; a number that long is out of every range, exact or not
    return int(digits) if len(digits) < 30 else float(digits)


# --- values: each reader returns what it read, or raises _Wrong


class _Wrong(Exception):
    """args: problem, remedy."""


def _show(value: object) -> str:
    """A value as a message shows it: short, on one line, and without looking into lists and objects."""
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "…")
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value)


def _words(value: object) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"{_show(value)} is not a text", "Write a text in double quotes")
    if re.search("[\ud800-\udfff]", value):
        raise _Wrong(f"{_show(value)} contains half of a character", r"Write the character itself instead of \u codes")
    return value.strip()


def _text(value: object) -> str:
    if not (text := _words(value)):
        raise _Wrong("it is empty", "Write a text")
    return text


def _line(value: object) -> str:
    line = _text(value)
    if re.search(r"[\x00-\x1f\x7f-\x9f]", value):
        raise _Wrong(f"{_show(value)} contains a line break or control character", "Write it on one line")
    return line


def _file(value: object) -> str:
    name = _line(value)
    # an empty part (an absolute path begins with one), a part of dots, a drive; whoever opens it checks links too
    if re.search(r"(^|[/\\])[.\s]*([/\\]|$)|:", name):
        remedy = "Name an image in ComfyUI's input folder, such as ann.png or cast/ann.png"
        raise _Wrong(f"{_show(value)} is not a file name inside a folder", remedy)
    return name


def _whole(value: object, low: int, high: int) -> int:
    """A whole number; as in JSON Schema, 81.0 is one."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or value % 1 != 0:
        raise _Wrong(f"{_show(value)} is not a whole number", f"Write a number from {low} to {high}, without quotes")
    if not low <= value <= high:
        raise _Wrong(f"{_show(value)} is out of range", f"Write a number from {low} to {high}")
    return int(value)


def _scene_num(value: object) -> int:
    return _whole(value, 0, MAX_SCENE)


def _seed(value: object) -> int:
    return _whole(value, 0, MAX_SEED)


def _length(value: object) -> int:
    length = _whole(value, 1, MAX_LENGTH)
    if length % 4 != 1:
        low = max(1, (length - 1) // 4 * 4 + 1)
        raise _Wrong(f"{length} frames are not 4n+1", f"Write {low} or {low + 4}")
    return length


def _cut(value: object) -> bool:
    if isinstance(value, bool):
        return value
    # scripts in the wild say "True" as often as true
    word = value.strip().lower() if isinstance(value, str) else None
    if word not in ("true", "false"):
        raise _Wrong(f"{_show(value)} is neither true nor false", "Write true for a cut, false to continue a shot")
    return word == "true"


def _transition(value: object) -> str:
    if not isinstance(value, str) or value not in OVERLAP:
        raise _Wrong(f"{_show(value)} is no transition", f"Write one of {', '.join(OVERLAP)}, or null")
    return value


def _list(value: object) -> list:
    if not isinstance(value, list):
        raise _Wrong(f"{_show(value)} is not a list", "Write a list in [ ]")
    return value


def _filled_list(value: object) -> list:
    if not _list(value):
        raise _Wrong("it is empty", "Write at least one")
    return value


def _object(value: object) -> _Object:
    if not isinstance(value, _Object):
        raise _Wrong(f"{_show(value)} is not an object", "Write an object in { }")
    return value


# --- the parts of a script

_STORY_FIELDS = ("story_name", "story_overview", "scenes", "references")
# lists in a scene with one entry per shot, and the reader of an entry
_SHOT_FIELDS = {
    "video_prompts": _text,
    "cut": _cut,
    "transition": _transition,
    "length": _length,
    "seed": _seed,
    "characters": _list,
}
_SCENE_FIELDS = ("scene_num", *_SHOT_FIELDS)
_REQUIRED = ("story_name", "scenes", "scene_num", "video_prompts", "cut")


class _Faults(list[Fault]):
    """The faults found so far. What could not be read is None, and the Story that holds it is never returned."""

    def add(self, where: str, problem: str, remedy: str) -> None:
        self.append(Fault(where, problem, remedy))

    def read(self, where: str, value: object, reader: Callable) -> object:
        try:
            return reader(value)
        except _Wrong as wrong:
            self.add(where, *wrong.args)

    def field(self, where: str, record: _Object, name: str, reader: Callable) -> object:
        """A field of an object; an optional one may be absent or null."""
        if name in record and (name in _REQUIRED or record[name] is not None):
            return self.read(f"{where}, {name}", record[name], reader)
        if name in _REQUIRED:
            self.add(f"{where}, {name}", "it is missing", "Add it")

    def check_names(self, where: str, record: _Object, known: tuple[str, ...]) -> None:
        self.check_repeated(where, record)
        for name in record:
            if name in known or name.startswith(("_", "$")):
                continue
            close = difflib.get_close_matches(name.lower(), known, n=1)
            remedy = f"Did you mean {close[0]}" if close else "Remove it, or begin its name with _ to keep it as a note"
            self.add(where, f"unknown field {_show(name)}", remedy)

    def check_repeated(self, where: str, record: _Object) -> None:
        for name in record.repeated:
            self.add(where, f"{_show(name)} is given more than once", "Keep one of them")


def _story(record: object, faults: _Faults) -> Story:
    story = faults.read("story", record, _object)
    if story is None:
        raise StoryError(faults)
    faults.check_names("story", story, _STORY_FIELDS)
    return Story(
        name=faults.field("story", story, "story_name", _line),
        overview=faults.field("story", story, "story_overview", _words) or "",
        shots=_shots(faults.field("story", story, "scenes", _filled_list) or [], faults),
        references=_references(faults.field("story", story, "references", _object), faults),
    )


def _shots(scenes: list, faults: _Faults) -> tuple[Shot, ...]:
    shots, numbers = [], set()
    for place, record in enumerate(scenes, 1):
        where = f"scene {place}"
        scene = faults.read(where, record, _object)
        if scene is None:
            continue
        number = faults.field(where, scene, "scene_num", _scene_num)
        if number not in (place, None):
            where += f" (scene_num {number})"
        if number is not None and number in numbers:
            faults.add(where, "an earlier scene has the same scene_num", "Give every scene its own")
        numbers.add(number)
        faults.check_names(where, scene, _SCENE_FIELDS)
        columns = [_column(where, scene, name, faults) for name in _SHOT_FIELDS]
        for index, entries in enumerate(zip_longest(*columns), 1):
            prompt, cut, kind, length, seed, labels = entries
            shot_where = f"{where}, shot {index}"
            _check_start(shot_where, place == index == 1, cut, kind, length, faults)
            characters = _labels(f"{shot_where}, characters", labels or [], faults)
            transition = "cut" if cut else kind
            shots.append(Shot(len(shots) + 1, number, index, prompt, cut, transition, length, seed, characters))
    return tuple(shots)


def _column(where: str, scene: _Object, name: str, faults: _Faults) -> list:
    """The entries of one field, one per shot; none for a field that is not given."""
    values = faults.field(where, scene, name, _filled_list if name == "video_prompts" else _list)
    if values is None:
        return []
    prompts = scene.get("video_prompts")
    if isinstance(prompts, list) and len(values) != len(prompts):
        problem = f"it has {len(values)} entries, video_prompts has {len(prompts)}"
        faults.add(f"{where}, {name}", problem, "Write one entry for every prompt")
    return [
        None
        if value is None and name not in _REQUIRED
        else faults.read(f"{where}, shot {index}, {name}", value, _SHOT_FIELDS[name])
        for index, value in enumerate(values, 1)
    ]


def _check_start(
    where: str, first: bool, cut: bool | None, kind: str | None, length: int | None, faults: _Faults
) -> None:
    """Add the faults of cut, transition and length that contradict each other."""
    if first and cut is False:
        faults.add(f"{where}, cut", "the first shot of a story has nothing to continue", "Write true")
    if cut is not None and kind is not None and cut != (kind == "cut"):
        remedy = "Write null for the transition of a cut" if cut else "Write true for the cut, or another transition"
        faults.add(f"{where}, transition", f"{kind} contradicts cut {_show(cut)}", remedy)
    if length is not None and length <= OVERLAP[kind or "cut"]:
        shortest = OVERLAP[kind] // 4 * 4 + 5
        faults.add(f"{where}, length", f"all {length} frames repeat the shot before", f"Write {shortest} or more")


def _labels(where: str, values: list, faults: _Faults) -> tuple[str, ...]:
    labels = [faults.read(where, value, _line) for value in values]
    for label, count in Counter(filter(None, labels)).items():
        if count > 1:
            faults.add(where, f"{_show(label)} is named more than once", "Name everyone once")
    return tuple(labels)


def _references(record: _Object | None, faults: _Faults) -> tuple[tuple[str, str], ...]:
    if record is None:
        return ()
    where = "story, references"
    faults.check_repeated(where, record)
    labels = _labels(where, list(record), faults)
    files = [faults.read(f"{where}, {_show(label)}", file, _file) for label, file in record.items()]
    return tuple(zip(labels, files, strict=True))
