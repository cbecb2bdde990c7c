"""Screenshots of the real front end, to be looked at: `PYTHONPATH=tests python3 tools/setup.py -m browser.screenshots`.

Every node, every example workflow and the template browser go to .host/screenshots, at 1x and 2x, dark and light;
--help-pages writes the wirings that the help pages show to js/docs, --thumbnails the workflows' square pictures,
--readme the demo's story after a run to docs/graph.png.
"""

import argparse
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from browser.front_end import FrontEnd, launch, make_user
from browser.wirings import WIRINGS, Wiring
from example_workflows import FOLDER, NAMES, put_inputs, put_models, read_api
from tools.demo import STORY, WORKFLOW
from tools.server import Server
from tools.setup import BASE, FOOTAGE_NAME, REPO, make_base
from tools.story import make_job, read_workflow

GALLERY, PAGES = BASE / "screenshots", REPO / "js" / "docs"
# The numbers of the groups that a workflow's thumbnail shows.
THUMBNAILS = {
    "story_director": "123",
    "two_shots_by_hand": "12",
    "references_to_story": "1234",
    "native_sampler": "34",
    "train_lora": "123",
}
THUMBNAIL = 720
# The demo's nodes in the README's picture: x, y, width, height.
PLACES = {
    "story": (0, 0, 560, 1310),
    "model_i2v": (610, 70, 400, 82),
    "lora": (610, 220, 400, 82),
    "model_t2v": (610, 370, 400, 82),
    "clip": (610, 520, 400, 58),
    "vae": (610, 640, 400, 58),
    "bank": (610, 760, 400, 550),
    "director": (1060, 0, 400, 1310),
    "save_video": (1510, 0, 620, 560),
}
SIZE = {"width": 1920, "height": 1400}
MARGIN, ABOVE = 16, 40  # CSS pixels around the nodes; their badges stand above them
# What lies over the canvas; it stays there to be clicked.
HIDE = ".graph-canvas-panel .p-buttongroup, .actionbar-container, .subgraph-breadcrumb { opacity: 0; }"
# Text stays text however small; no frames per second and no hints over the picture.
SETTINGS = {
    "Comfy.Locale": "en",
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.RightSidePanel.IsOpen": False,
}


@contextmanager
def server() -> Iterator[Server]:
    """A server with everything that the example workflows ask for."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        make_base(base, BASE / "input" / FOOTAGE_NAME, models=put_models(Path(folder) / "models"))
        make_user(base)
        for name in NAMES:
            put_inputs(base / "input", read_api(name))
        with Server(base) as running:
            yield running


@contextmanager
def front_end(server: Server, browser: Browser, theme: str, scale: float, **settings) -> Iterator[FrontEnd]:
    context = browser.new_context(viewport=SIZE, device_scale_factor=scale)
    settings = {**SETTINGS, "Comfy.ColorPalette": theme, **settings}
    context.request.post(f"{server.client.url}/settings", data=json.dumps(settings))
    opened = FrontEnd(context.new_page(), server.client)
    opened.page.add_style_tag(content=HIDE)
    opened.clear()
    yield opened
    context.close()


def picture(front_end: FrontEnd) -> bytes:
    """PNG of all nodes, as close up as they fit."""
    front_end.page.mouse.move(20, SIZE["height"] / 2)  # over nothing that answers
    front_end.show()
    box = front_end.page.evaluate(
        """() => {
          const parts = [...app.graph.nodes, ...app.graph.groups];
          const boxes = parts.map((part) => part.boundingRect ?? part.getBounding());
          const { scale, offset } = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
          const corner = (pick, i, size) => pick(...boxes.map((box) => box[i] + (size ? box[i + 2] : 0)));
          const [left, top] = [0, 1].map((i) => (corner(Math.min, i, false) + offset[i]) * scale);
          const [right, bottom] = [0, 1].map((i) => (corner(Math.max, i, true) + offset[i]) * scale);
          return { x: canvas.x + left, y: canvas.y + top, width: right - left, height: bottom - top };
        }"""
    )
    left, top = max(0, box["x"] - MARGIN), max(0, box["y"] - ABOVE)
    right, bottom = box["x"] + box["width"] + MARGIN, box["y"] + box["height"] + MARGIN
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return front_end.page.screenshot(clip=clip)


def write_jpeg(path: Path, png: bytes, quality: int = 74) -> None:
    Image.open(io.BytesIO(png)).convert("RGB").save(path, quality=quality, optimize=True)


def write_help_pictures(server: Server, browser: Browser, names: list[str]) -> None:
    with front_end(server, browser, "dark", 1.5) as page:
        for name in names or WIRINGS:
            WIRINGS[name].build(page)
            write_jpeg(PAGES / f"{name}.jpg", picture(page))


def write_readme_picture(server: Server, browser: Browser) -> None:
    job, nodes, cables = make_job(STORY, read_workflow(WORKFLOW)), {}, []
    for image, name in job.images.items():
        placed = server.base / "input" / name
        placed.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, placed)
    types = server.client.object_info()
    for name, node in job.prompt.items():
        widgets = {key: value for key, value in node["inputs"].items() if not isinstance(value, list)}
        if "seed" in widgets:
            widgets["control_after_generate"] = "fixed"
        nodes[name] = (node["class_type"], *PLACES[name][:2], widgets)
        for key, value in node["inputs"].items():
            if isinstance(value, list):
                source, output = value
                outputs = types[job.prompt[source]["class_type"]]["output_name"]
                cables.append(f"{source}.{outputs[output]} {name}.{key}")
    titles = {name: node["_meta"]["title"] for name, node in job.prompt.items()}
    sizes = {name: place[2:] for name, place in PLACES.items()}
    with front_end(server, browser, "dark", 1.5, **{"Comfy.Execution.PreviewMethod": "none"}) as page:
        Wiring(nodes, tuple(cables), titles, sizes, run=True).build(page)
        page.page.wait_for_timeout(8000)  # until the front end no longer says that it is done
        (REPO / "docs" / "graph.png").write_bytes(picture(page))


def write_thumbnails(server: Server, browser: Browser) -> None:
    with front_end(server, browser, "dark", 1) as page:
        for name, groups in THUMBNAILS.items():
            page.drop(FOLDER / f"{name}.json")
            page.page.wait_for_timeout(1500)
            page.page.evaluate(
                """(numbers) => {
                  const shown = app.graph.groups.filter((group) => numbers.includes(group.title[0]));
                  shown.forEach((group) => group.recomputeInsideNodes());
                  const kept = [...shown, ...shown.flatMap((group) => [...group.nodes])];
                  for (const part of [...app.graph.nodes, ...app.graph.groups])
                    if (!kept.includes(part)) app.graph.remove(part);
                }""",
                groups,
            )
            image = Image.open(io.BytesIO(picture(page))).convert("RGB")
            square = Image.new("RGB", (max(image.size),) * 2, image.getpixel((image.width // 2, image.height - 3)))
            square.paste(image, ((square.width - image.width) // 2, (square.height - image.height) // 2))
            square.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS).save(FOLDER / f"{name}.jpg", quality=72)


def write_gallery(server: Server, browser: Browser, theme: str, scale: int) -> None:
    folder = GALLERY / f"{theme}-{scale}x"
    folder.mkdir(parents=True, exist_ok=True)
    pack = "custom_nodes.ComfyUI-StoryMem"
    nodes = [name for name, node in server.client.object_info().items() if node["python_module"] == pack]
    with front_end(server, browser, theme, scale) as page:
        for name in nodes:
            page.clear()
            page.add(name)
            (folder / f"{name}.png").write_bytes(picture(page))
        for name in THUMBNAILS:
            page.drop(FOLDER / f"{name}.json")
            page.page.wait_for_timeout(1500)
            (folder / f"{name}.png").write_bytes(picture(page))
        page.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        page.page.get_by_text("ComfyUI-StoryMem").first.click()
        page.page.get_by_test_id(f"template-workflow-{next(iter(THUMBNAILS))}").wait_for()
        page.page.wait_for_timeout(1000)
        page.page.screenshot(path=folder / "templates.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m browser.screenshots", description=__doc__)
    parser.add_argument("--help-pages", nargs="*", metavar="NAME", help="the pictures of the help pages, all or some")
    parser.add_argument("--thumbnails", action="store_true", help="the workflows' pictures in the template browser")
    parser.add_argument("--readme", action="store_true", help="the demo's story after a run")
    arguments = parser.parse_args()
    names = arguments.help_pages
    with server() as running, sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        if names is not None:
            write_help_pictures(running, browser, names)
        elif arguments.thumbnails:
            write_thumbnails(running, browser)
        elif arguments.readme:
            write_readme_picture(running, browser)
        else:
            for theme in ("dark", "light"):
                for scale in (1, 2):
                    write_gallery(running, browser, theme, scale)
        browser.close()


if __name__ == "__main__":
    main()
