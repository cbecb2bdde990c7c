"""The translations: complete, of the same shape, with the same figures, and safe for the front end's formatter."""

import json
import re
from collections import Counter

import pytest

from tools.setup import REPO

LOCALES = REPO / "locales"
TRANSLATIONS = ("de", "zh")
SYNTAX = re.compile(r"[{}@|]")  # names and descriptions go through a message formatter, to which these mean something
SCRIPT = {"de": re.compile(r"[A-Za-zäöüßÄÖÜ]"), "zh": re.compile(r"[\u4e00-\u9fff]")}
NAMES = ("name", "display_name")


def read(language: str, file: str = "nodeDefs") -> dict:
    return json.loads((LOCALES / language / f"{file}.json").read_text(encoding="utf-8"))


def flat(texts: dict, path: tuple = ()) -> dict[tuple, str]:
    """Every text by the keys that lead to it."""
    if isinstance(texts, str):
        return {path: texts}
    return {key: text for name, part in texts.items() for key, text in flat(part, (*path, name)).items()}


def test_there_are_no_other_languages():
    assert {path.name for path in LOCALES.iterdir()} == {"en", *TRANSLATIONS}


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_translation_has_the_keys_of_the_english_texts(language):
    for file in ("nodeDefs", "main"):
        assert flat(read(language, file)).keys() == flat(read("en", file)).keys()


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_everything_but_names_is_translated(language):
    english = flat(read("en"))
    for key, text in flat(read(language)).items():
        if key[-1] not in NAMES:
            assert text != english[key] and SCRIPT[language].search(text), key


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_translation_has_the_same_figures(language):
    english = flat(read("en"))
    for key, text in flat(read(language)).items():
        figures = [Counter(re.findall(r"\d+(?:\.\d+)?", version)) for version in (english[key], text)]
        assert figures[0] == figures[1], f"{key}: {text}"


@pytest.mark.parametrize("language", ("en", *TRANSLATIONS))
def test_no_text_is_formatting_to_the_front_end(language):
    for key, text in flat(read(language)).items():
        assert not SYNTAX.search(text), f"{key}: {text}"


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_names_are_short_enough_for_a_widget(language):
    for key, text in flat(read(language)).items():
        if key[-1] == "name":
            assert len(text) <= 20, f"{key}: {text}"
