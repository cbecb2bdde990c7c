"""The example workflows: graph and API form are one workflow, the server knows all of it, and it runs.

A change of a node shows here: open the graph in ComfyUI, set what is new, save it and export its API form.
"""

import io
from itertools import combinations

import av
import pytest
from PIL import Image

from example_workflows import DEMO_FILES, FILES, FOLDER, NAMES, SMALL, TRAINING, put_inputs, read_api, read_graph
from host_graph import HEIGHT, WIDTH

TITLE_HEIGHT = 30  # stands above a node's position
NOTES = ("MarkdownNote", "Note")
WIDGETS = ("COMBO", "INT", "FLOAT", "STRING", "BOOLEAN", "COMFY_DYNAMICCOMBO_V3")
ANY = "*"  # an input that takes every type
UPLOADS = ("image_upload", "video_upload")


@pytest.fixture(params=[*NAMES, TRAINING])
def name(request) -> str:
    return request.param


@pytest.fixture
def nodes(client) -> dict:
    return client.object_info()


def inputs_of(definition: dict) -> dict[str, tuple]:
    """Input name -> its type (a list of options counts as COMBO) and options, in the order of the node's widgets."""
    inputs = {}
    for group in ("required", "optional"):
        for name in definition["input_order"].get(group, []):
            kind, options = (*definition["input"][group][name], {})[:2]
            inputs[name] = ("COMBO", {**options, "options": kind}) if isinstance(kind, list) else (kind, options)
    return inputs


def choices(kind: str, options: dict) -> list:
    return [choice["key"] for choice in options["options"]] if kind == "COMFY_DYNAMICCOMBO_V3" else options["options"]


def to_api(graph: dict, nodes: dict) -> dict:
    """The API form of a graph without subgraphs and bypassed nodes, from the server's definitions alone."""
    origins = {number: [str(origin), slot] for number, origin, slot, *_ in graph["links"]}
    prompt = {}
    for node in graph["nodes"]:
        if node["type"] in NOTES:
            continue
        definition = nodes[node["type"]]
        title = node.get("title", definition["display_name"])
        assert node["mode"] == 0, f"{title} is muted or bypassed"
        values, inputs = iter(node.get("widgets_values", [])), {}
        for name, (kind, options) in inputs_of(definition).items():
            if kind in WIDGETS:
                inputs[name] = next(values)
                # the front end adds it to a seed that does not say
                if options.get("control_after_generate", name in ("seed", "noise_seed")):
                    assert next(values) == "fixed"
                if any(options.get(upload) for upload in UPLOADS):
                    next(values)  # the upload button
        assert not list(values), f"{title}: more values than widgets"
        linked = {socket["name"]: socket["link"] for socket in node["inputs"] if socket["link"] is not None}
        inputs |= {name: origins[link] for name, link in linked.items()}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return prompt


def test_both_forms_are_the_same_workflow(name, nodes):
    assert to_api(read_graph(name), nodes) == read_api(name)


def test_the_server_knows_every_node_input_option_and_link(name, nodes):
    prompt = read_api(name)
    for node in prompt.values():
        definition, where = nodes[node["class_type"]], node["_meta"]["title"]
        inputs = inputs_of(definition)
        assert not definition.get("deprecated"), where
        assert node["inputs"].keys() <= inputs.keys(), where
        assert definition["input_order"].get("required", []) == [
            name for name in definition["input_order"].get("required", []) if name in node["inputs"]
        ], where
        for name, value in node["inputs"].items():
            kind, options = inputs[name]
            if isinstance(value, list):
                origin, slot = value
                assert kind in (nodes[prompt[origin]["class_type"]]["output"][slot], ANY), f"{where}: {name}"
            elif kind in ("COMBO", "COMFY_DYNAMICCOMBO_V3") and name not in FILES:
                assert value in choices(kind, options), f"{where}: {name}"


def test_links_of_the_graph_are_whole(name, nodes):
    graph = read_graph(name)
    by_id = {node["id"]: node for node in graph["nodes"]}
    for number, origin, slot, target, target_slot, kind in graph["links"]:
        source, sink = by_id[origin]["outputs"][slot], by_id[target]["inputs"][target_slot]
        assert number in source["links"] and sink["link"] == number
        assert source["type"] == kind == nodes[by_id[origin]["type"]]["output"][slot]
        assert sink["type"] in (kind, ANY)


def test_nodes_lie_apart_and_each_is_in_one_group(name):
    graph = read_graph(name)
    boxes = {}
    for node in graph["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        boxes[node["id"]] = (x, y - TITLE_HEIGHT, x + width, y + height)
    groups = [(x, y, x + width, y + height) for x, y, width, height in (group["bounding"] for group in graph["groups"])]
    for (one, (left, top, right, bottom)), (other, (x0, y0, x1, y1)) in combinations(boxes.items(), 2):
        assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top, f"nodes {one} and {other} overlap"
    for node in graph["nodes"]:
        left, top, right, bottom = boxes[node["id"]]
        around = sum(x0 <= left and y0 <= top and right <= x1 and bottom <= y1 for x0, y0, x1, y1 in groups)
        assert around == (node["type"] not in NOTES), f"node {node['id']}"


def test_the_notes_name_every_file_to_download(name):
    notes = " ".join(node["widgets_values"][0] for node in read_graph(name)["nodes"] if node["type"] in NOTES)
    for node in read_api(name).values():
        for key, value in node["inputs"].items():
            if key in FILES[:4]:
                assert value.removesuffix(".safetensors") in notes


def test_each_has_a_small_picture(name):
    picture = FOLDER / f"{name}.jpg"
    assert picture.stat().st_size < 60_000
    with Image.open(picture) as image:
        assert image.width >= 600


def with_demo_models(prompt: dict) -> dict:
    """The same nodes and links with the demo's files, at a small size."""
    for node in prompt.values():
        inputs = node["inputs"]
        for key, value in inputs.items():
            if key in FILES[:4]:
                inputs[key] = DEMO_FILES[value]
            elif key in SMALL:
                inputs[key] = SMALL[key]
        if node["class_type"] == "CLIPLoader":
            node |= {"class_type": "StoryMemDemoCLIPLoader", "inputs": {"clip_name": inputs["clip_name"]}}
    return prompt


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, client, server):
    frames, recalled = NAMES[name]
    prompt = with_demo_models(read_api(name))
    put_inputs(server.base / "input", prompt)
    outputs = client.run(prompt)["outputs"]
    (save,) = (number for number, node in prompt.items() if node["class_type"] == "SaveVideo")
    with av.open(io.BytesIO(client.view(**outputs[save]["images"][0]))) as film:
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert [picture.shape for picture in pictures] == [(HEIGHT, WIDTH, 3)] * frames
    counts = [len(output["storymem_recalled"]) for output in outputs.values() if "storymem_recalled" in output]
    assert len(counts) == len(recalled)
    assert all(count >= least for count, least in zip(counts, recalled, strict=True)), counts
