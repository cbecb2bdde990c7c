"""Help where people look, as the real server serves it: descriptions, tooltips, help pages and translations."""

import re

import pytest

from tools.setup import REPO

PAGES = "/extensions/ComfyUI-StoryMem/docs/"
LANGUAGES = ("en", "de", "zh")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


@pytest.fixture
def nodes(client) -> dict:
    """Definitions of this pack's nodes."""
    return {
        name: node
        for name, node in client.object_info().items()
        if node["python_module"] == "custom_nodes.ComfyUI-StoryMem"
    }


def inputs_of(node: dict) -> dict[str, tuple[str, dict]]:
    """Input name -> type and options, in the order of the definition."""
    inputs = {}
    for group in ("required", "optional"):
        for name in node["input_order"].get(group, []):
            kind, options = node["input"][group][name]
            inputs[name] = (kind, options)
    return inputs


def texts_of(node: dict) -> dict:
    """A node's texts as a locale file has them."""
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {
            name: {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
            for name, (_, options) in inputs_of(node).items()
        },
        "outputs": {
            str(i): {"name": name, "tooltip": tooltip}
            for i, (name, tooltip) in enumerate(zip(node["output_name"], node["output_tooltips"], strict=True))
        },
    }


def test_every_node_input_and_output_explains_itself(nodes):
    assert len(nodes) > 15
    for name, node in nodes.items():
        assert len(node["description"]) > 20, name
        assert "storymem" in node["search_aliases"], name
        for input_name, (_, options) in inputs_of(node).items():
            assert options.get("tooltip"), f"{name}, {input_name}"
        assert all(node["output_tooltips"]) and len(node["output_tooltips"]) == len(node["output"]), name


def test_every_node_has_a_page_with_a_picture_that_explains_every_setting(nodes, client):
    for name, node in nodes.items():
        page = client._get(f"{PAGES}{name}.md").decode()
        assert page.startswith(f"# {node['display_name']}\n"), name
        assert "Typical wiring" in page and "## Common mistakes" in page, name
        pictures = re.findall(r"!\[.+?\]\(([\w.]+)\)", page)
        assert pictures, name
        for picture in pictures:
            assert client._get(PAGES + picture).startswith(b"\xff\xd8\xff"), picture
        for input_name, (kind, _) in inputs_of(node).items():
            if kind in WIDGETS or isinstance(kind, list):
                assert re.search(rf"\*\*{input_name}\*\*", page), f"{name} says nothing of {input_name}"


def test_there_is_no_page_or_picture_too_many(nodes):
    folder = REPO / "js" / "docs"
    pages = {path.stem: path.read_text() for path in folder.glob("*.md")}
    assert pages.keys() == nodes.keys()
    used = {picture for page in pages.values() for picture in re.findall(r"\]\(([\w.]+)\)", page)}
    assert used == {path.name for path in folder.iterdir() if path.suffix != ".md"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000


def test_the_english_texts_are_those_of_the_nodes(nodes, client):
    served = client._json("/i18n")["en"]["nodeDefs"]
    assert {name: served.get(name) for name in nodes} == {name: texts_of(node) for name, node in nodes.items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_server_serves_every_language_and_no_text_without_a_node(language, nodes, client):
    served = client._json("/i18n")[language]
    assert served["nodeDefs"].keys() == nodes.keys()
    parts = {part for node in nodes.values() for part in node["category"].split("/")}
    assert served["nodeCategories"].keys() <= parts
