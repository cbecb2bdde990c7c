"""ComfyUI's front end in a real Chromium, driven as a person does: drop, click, type, queue."""

import base64
import json
import mimetypes
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserType, Page

from tools.chromium import chromium
from tools.client import Client

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What a user who has been here before has: without them the front end asks for files that are not there.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "1.47.12", "Comfy.Minimap.Visible": False}
USER_FILES = {"comfy.settings.json": json.dumps(SETTINGS), "user.css": "", "comfy.templates.json": "[]"}
OURS = "/extensions/ComfyUI-StoryMem/"
DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const [clientX, clientY] = [innerWidth / 2, innerHeight / 2];
  for (const event of ["dragenter", "dragover", "drop"])
    document.elementFromPoint(clientX, clientY).dispatchEvent(
      new DragEvent(event, { dataTransfer: transfer, bubbles: true, cancelable: true, clientX, clientY }));
}"""


def launch(chromium_type: BrowserType) -> Browser:
    return chromium_type.launch(executable_path=chromium(), args=list(FLAGS))


def make_user(base: Path) -> None:
    """The files of a user who has opened the front end before, in a ComfyUI base directory."""
    user = base / "user" / "default"
    for folder in ("workflows", "subgraphs"):
        (user / folder).mkdir(parents=True, exist_ok=True)
        (user / folder / ".index.json").write_text("{}")
    for name, text in USER_FILES.items():
        (user / name).write_text(text)


class FrontEnd:
    """One page at the front end of a server.

    Attributes:
        page: Playwright's page, for everything that is not here.
        messages: (type, text and source) of each console error, console warning and uncaught error so far.
    """

    def __init__(self, page: Page, client: Client, with_pack: bool = True):
        self.page, self.client = page, client
        self.messages: list[tuple[str, str]] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.messages.append(("uncaught", str(error))))
        if not with_pack:
            page.route("**/api/extensions", self._without_pack)
        self.open()

    def _on_console(self, message) -> None:
        if message.type in ("error", "warning"):
            self.messages.append((message.type, f"{message.text} {urlsplit(message.location['url']).path}"))

    @staticmethod
    def _without_pack(route) -> None:
        response = route.fetch()
        route.fulfill(response=response, json=[path for path in response.json() if not path.startswith(OURS)])

    def open(self) -> None:
        """Go to the front end (or reload it) and wait until it takes input."""
        self.page.goto(self.client.url)
        self.page.wait_for_function("() => window.app?.vueAppReady && window.app.extensionManager?.workflow")
        # the workflow of last time is loaded a moment after the front end says that it is ready
        self.page.wait_for_function("() => window.app.extensionManager.workflow.activeWorkflow?.isLoaded")

    def load(self, workflow: dict) -> None:
        """Replace the graph by a workflow."""
        self.page.evaluate("async (workflow) => { await app.loadGraphData(workflow) }", workflow)

    def clear(self) -> None:
        self.load({"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4})

    def drop(self, path: Path) -> None:
        """Drop a file from the desktop onto the canvas."""
        # a block that is still fading away is torn down wrongly when the next one begins
        self.page.locator(".p-blockui-mask").wait_for(state="detached")
        kind = mimetypes.guess_type(path.name)[0]
        self.page.evaluate(DROP, [path.name, kind, base64.b64encode(path.read_bytes()).decode()])

    def add(self, node_type: str, position: tuple[int, int] = (0, 0), **widgets) -> int:
        """Add a node with widget values; returns its id."""
        return self.page.evaluate(
            """([type, pos, values]) => {
              const node = LiteGraph.createNode(type);
              node.pos = pos;
              app.graph.add(node);
              for (const [name, value] of Object.entries(values)) {
                const widget = node.widgets.find((widget) => widget.name === name);
                widget.value = value;
                widget.callback?.(value);
              }
              return node.id;
            }""",
            [node_type, list(position), widgets],
        )

    def connect(self, source: int, output: str, target: int, name: str) -> None:
        """A cable from a node's named output to another's named input."""
        self.page.evaluate(
            """([source, output, target, input]) => {
              const [from, to] = [source, target].map((id) => app.graph.getNodeById(id));
              const slot = from.outputs.findIndex((slot) => slot.name === output);
              const end = to.inputs.findIndex((slot) => slot.name === input);
              if (slot < 0 || end < 0) throw new Error(`no ${output} or no ${input}`);
              from.connect(slot, to, end);
            }""",
            [source, output, target, name],
        )

    def widget(self, node: int, name: str):
        """A widget's value."""
        return self.page.evaluate(
            "([id, name]) => app.graph.getNodeById(id).widgets.find((widget) => widget.name === name).value",
            [node, name],
        )

    def workflow(self) -> dict:
        """The graph as it would be saved."""
        return self.page.evaluate("() => app.graph.serialize()")

    def api_prompt(self) -> dict:
        """The graph in API format."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def show(self, *nodes: int) -> None:
        """Bring nodes (all without any) into view, as large as they fit."""
        self.page.evaluate(
            """(ids) => {
              const nodes = ids.length ? ids.map((id) => app.graph.getNodeById(id)) : app.graph.nodes;
              const boxes = nodes.map((node) => node.getBounding());
              const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])) - 40);
              const [right, bottom] = [0, 1].map((i) => Math.max(...boxes.map((box) => box[i] + box[i + 2])) + 40);
              const canvas = app.canvas.canvas.getBoundingClientRect();
              const area = { left: 80, top: 110, right: 20, bottom: 20 };
              const width = canvas.width - area.left - area.right, height = canvas.height - area.top - area.bottom;
              const scale = Math.min(width / (right - left), height / (bottom - top), 1);
              app.canvas.ds.scale = scale;
              app.canvas.ds.offset = [area.left / scale - left, area.top / scale - top];
              app.canvas.setDirty(true, true);
            }""",
            list(nodes),
        )
        self.page.wait_for_timeout(200)

    def run(self, timeout: float = 300) -> dict:
        """Click Run and wait for the end: the history entry. NodeError where a node fails."""
        with self.page.expect_response(lambda response: response.url.endswith("/api/prompt")) as answer:
            self.page.get_by_test_id("queue-button").click()
        return self.client.wait(answer.value.json()["prompt_id"])

    def undo(self) -> None:
        """Ctrl+Z on the canvas."""
        self.page.keyboard.press("Control+z")
        self.page.wait_for_timeout(300)
