"""Story Script and Story Shot in ComfyUI: what they put out, what they read again, and how faults come back."""

import json
import urllib.error
import uuid

import pytest

from host_graph import Graph
from tools.client import NodeError

STORY = """{
  "story_name": "The Fox", // with a comment
  "scenes": [
    {"scene_num": 1, "video_prompts": ["a fox", "she {runs|walks} /* fast */"], "cut": ["True", "False"]},
    {"scene_num": 4, "video_prompts": ["dusk"], "cut": [true],},
  ],
}"""
SHOTS = [("a fox", True, 1, 1), ("she {runs|walks} /* fast */", False, 1, 2), ("dusk", True, 4, 1)]


@pytest.fixture
def new_file(server):
    """Writes a file of its own into the input folder; returns its name."""
    paths = []

    def write(content, suffix=".json", folder=""):
        paths.append(server.base / "input" / folder / f"{uuid.uuid4().hex}{suffix}")
        paths[-1].parent.mkdir(exist_ok=True)
        paths[-1].write_bytes(content.encode() if isinstance(content, str) else content)
        return paths[-1].relative_to(server.base / "input").as_posix()

    yield write
    for path in paths:
        path.unlink()


def shown(graph, links):
    """Runs the graph; the text of each value."""
    texts = [graph.text(link) for link in links]
    outputs = graph.run()["outputs"]
    return [outputs[text]["text"][0] for text in texts]


def count(graph, script):
    """A link to the number of shots."""
    return graph.node("StoryMemScript", 1, script=script)


def shots_of(client, script):
    """Every shot of a story, from Story Shot: (prompt, cut, scene, shot)."""
    graph = Graph(client)
    number = int(shown(graph, [count(graph, script)])[0])
    graph = Graph(client)
    story = graph.node("StoryMemScript", script=script)
    nodes = [graph.node("StoryMemShot", story=story, index=index) for index in range(1, number + 1)]
    texts = shown(graph, [[node[0], slot] for node in nodes for slot in range(4)])
    rows = [texts[start : start + 4] for start in range(0, len(texts), 4)]
    return [(prompt, {"True": True, "False": False}[cut], int(scene), int(shot)) for prompt, cut, scene, shot in rows]


def refused(client, graph):
    """What the user reads on the node that failed; the server then runs another prompt."""
    with pytest.raises(NodeError) as caught:
        graph.run()
    assert caught.value.exception_type.rsplit(".", 1)[-1] in ("StoryError", "InputError")
    after = Graph(client)
    assert shown(after, [count(after, STORY)]) == ["3"]
    return caught.value.message


def refused_script(client, script):
    """What the user reads on the node of a script that the queue refuses; the storyboard shows the same faults."""
    graph = Graph(client)
    number = graph.text(count(graph, script))
    with pytest.raises(NodeError) as caught:
        client.submit(graph)
    assert caught.value.exception_type == "custom_validation_failed"
    assert (caught.value.node_id, caught.value.node_type) == (str(int(number) - 1), "StoryMemScript")
    message = caught.value.message.removeprefix("Custom validation failed for node: script - ")
    answer = client._json("/storymem/check", {"script": script})
    assert answer["shots"] == 0 and len(answer["faults"]) == len(message.split("\n"))
    for fault, line in zip(answer["faults"], message.split("\n"), strict=True):
        assert line.endswith(fault["text"]) and (fault["scene"] is None) == (line == fault["text"])
    return message


def test_a_script_in_the_node(client):
    assert shots_of(client, STORY) == SHOTS


def test_a_script_in_the_input_folder(client, new_file):
    assert shots_of(client, new_file("\ufeff" + STORY.replace("\n", "\r\n"))) == SHOTS
    assert shots_of(client, f" {new_file(STORY, suffix='.JSON', folder='stories')}\n") == SHOTS


def test_the_script_of_a_new_node_is_valid(client):
    definition = client.object_info()["StoryMemScript"]["input"]["required"]["script"][1]
    assert definition["multiline"] and not definition.get("dynamicPrompts")
    assert [cut for _, cut, _, _ in shots_of(client, definition["default"])] == [True, False]


def test_every_input_and_output_is_explained(client):
    info = client.object_info()
    for name in ("StoryMemScript", "StoryMemShot"):
        node = info[name]
        assert node["category"] == "StoryMem/story" and node["description"] and node["search_aliases"]
        assert all(options[1]["tooltip"] for options in node["input"]["required"].values())
        assert all(node["output_tooltips"]) and len(node["output_tooltips"]) == len(node["output"])


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(client, new_file, server):
    name = new_file(STORY)

    def run():
        graph = Graph(client)
        link = count(graph, name)
        number = graph.text(link)
        ran = set()

        def follow(event, data):
            if event == "executing":
                ran.add(data.get("node"))

        outputs = graph.run(on_event=follow)["outputs"]
        return outputs[number]["text"][0], link[0] in ran

    assert run() == ("3", True)
    path = server.base / "input" / name
    path.touch()
    assert run() == ("3", False)
    path.write_text(STORY.replace('["dusk"], "cut": [true]', '["dusk", "night"], "cut": [true, false]'))
    assert run() == ("4", True)


def test_the_faults_of_a_linked_script_come_back_when_it_is_known(client):
    graph = Graph(client)
    graph.text(count(graph, graph.node("PrimitiveStringMultiline", value="{")))
    assert refused(client, graph).startswith("line 1, column 2: not JSON")


def test_a_linked_script_is_not_read_again(client):
    """A script out of another node: the host knows when that one changes."""

    def run():
        graph = Graph(client)
        link = count(graph, graph.node("PrimitiveStringMultiline", value=STORY))
        graph.text(link)
        ran = set()
        graph.run(on_event=lambda event, data: event == "executing" and ran.add(data.get("node")))
        return link[0] in ran

    run()
    assert not run()


def test_all_faults_come_back_at_once(client):
    script = {
        "story_name": "",
        "scenes": [
            {"scene_num": 1, "video_prompts": ["a", "b"], "cut": [False]},
            {"scene_num": 2, "video_prompts": ["c"], "cuts": [True]},
        ],
    }
    assert refused_script(client, json.dumps(script)).split("\n") == [
        "story, story_name: it is empty. Write a text",
        "scene 1, cut: it has 1 entries, video_prompts has 2. Write one entry for every prompt",
        "scene 1, shot 1, cut: the first shot of a story has nothing to continue. Write true",
        "scene 2: unknown field 'cuts'. Did you mean cut",
        "scene 2, cut: it is missing. Add it",
    ]


def test_the_storyboard_is_told_where_a_fault_is(client, new_file):
    script = {
        "story_name": "S",
        "references": {"Ann": "none.png"},
        "scenes": [
            {"scene_num": 7, "video_prompts": ["a", "b"], "cut": [True, "no"], "length": [None]},
            {"scene_num": 2, "video_prompts": [""], "cut": [True], "characters": [["A", 1]], "cuts": []},
        ],
    }
    answer = client._json("/storymem/check", {"script": json.dumps(script)})
    assert answer["file"] is None
    assert [(fault["scene"], fault["shot"], fault["field"]) for fault in answer["faults"]] == [
        (1, 2, "cut"),
        (1, None, "length"),
        (2, None, None),
        (2, 1, "video_prompts"),
        (2, 1, "characters"),
    ]
    assert answer["faults"][3]["text"] == "it is empty. Write a text"
    name = new_file(STORY)
    assert client._json("/storymem/check", {"script": name}) == {"shots": 3, "faults": [], "file": STORY}
    for body in ({}, {"script": 1}, [], "x"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            client._json("/storymem/check", body)
        assert caught.value.code == 400 and "script" in json.load(caught.value)["error"]


def test_texts_that_are_no_script(client, new_file):
    assert refused_script(client, "").startswith("script: it is empty")
    assert refused_script(client, "[" * 100_000).startswith("script: brackets are nested too deeply")
    assert refused_script(client, STORY + "\n,").startswith("line 8, column 1: not JSON")
    assert refused_script(client, new_file("{\n")).startswith("line 2, column 1: not JSON")


def test_files_that_cannot_be_read(client, new_file, server, tmp_path):
    assert "script='none.json': there is no such file. Put it into" in refused_script(client, "none.json")
    assert "script='../story.json': leads out" in refused_script(client, "../story.json")
    assert "an absolute path" in refused_script(client, str(tmp_path / "story.json"))
    name = new_file(STORY.encode("utf-16"))
    assert refused_script(client, name) == f"script={name!r}: not a text in UTF-8. Save it with UTF-8 encoding"
    (tmp_path / "story.json").write_text(STORY)
    link = server.base / "input" / f"{uuid.uuid4().hex}.json"
    link.symlink_to(tmp_path / "story.json")
    assert "a link that leads out of its folder" in refused_script(client, link.name)
    link.unlink()


def test_references_must_exist(client, new_file):
    script = json.loads(STORY.replace(" // with a comment", "").replace(",}", "}").replace("},\n  ],\n}", "}]}"))
    image = new_file(b"a picture", suffix=".png", folder="cast")
    script["references"] = {"Ann": image}
    assert shots_of(client, json.dumps(script)) == SHOTS
    script["references"] = {"Ann": image, "Bob": "bob is away.png", "安娜": "cast", "Cy": "x" * 300}
    assert refused_script(client, json.dumps(script)).split("\n") == [
        "story, references: Bob='bob is away.png': there is no such file. Put it into ComfyUI's input folder",
        "story, references: 安娜='cast': there is no such file. Put it into ComfyUI's input folder",
        f"story, references: Cy='{'x' * 300}': a name of over 255 bytes. Give a shorter name",
    ]


def test_a_shot_beyond_the_story(client):
    graph = Graph(client)
    story = graph.node("StoryMemScript", script=STORY)
    graph.text(graph.node("StoryMemShot", story=story, index=4))
    assert refused(client, graph) == "index=4: the story has 3 shots. Choose 1 to 3"
