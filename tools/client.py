"""A small synchronous client of ComfyUI's HTTP and WebSocket interface."""

import asyncio
import json
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable

import aiohttp

# Never through a proxy: the server is on this machine.
_HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PREVIEW = 1


class NodeError(Exception):
    """A node refused its input, failed, or was interrupted, as ComfyUI reports it.

    Attributes:
        node_id, node_type: the node in the prompt; None when the error concerns the prompt as a whole.
        exception_type: the Python exception's type, ComfyUI's own type of validation error, or "interrupted".
        message: what the user reads on the node.
    """

    def __init__(self, node_id: str | None, node_type: str | None, exception_type: str, message: str):
        super().__init__(f"node {node_id} ({node_type}): {exception_type}: {message}")
        self.node_id, self.node_type = node_id, node_type
        self.exception_type, self.message = exception_type, message


class Client:
    """Talks to the server at `url`, e.g. "http://127.0.0.1:8188"."""

    def __init__(self, url: str):
        self.url = url
        self.id = uuid.uuid4().hex

    def submit(self, prompt: dict) -> str:
        """Queue an API-format prompt and return its id; NodeError if a node's inputs are not valid."""
        try:
            answer = self._json("/prompt", {"prompt": prompt, "client_id": self.id})
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            answer = json.load(error)
        for node_id, node in answer["node_errors"].items():
            raise _invalid(node_id, node["class_type"], node["errors"][0])
        if "error" in answer:
            raise _invalid(None, None, answer["error"])
        return answer["prompt_id"]

    def wait(self, prompt_id: str) -> dict:
        """Wait for the end of a prompt: its history entry, or NodeError."""
        while not (entry := self._json(f"/history/{prompt_id}").get(prompt_id)):
            time.sleep(0.1)
        if entry["status"]["status_str"] == "success":
            return entry
        for event, data in entry["status"]["messages"]:
            if event == "execution_interrupted":
                raise NodeError(data["node_id"], data["node_type"], "interrupted", "the prompt was interrupted")
            if event == "execution_error":
                details = (data["exception_type"], data["exception_message"].strip())
                raise NodeError(data["node_id"], data["node_type"], *details)
        raise AssertionError(f"ComfyUI reports an error without a message: {entry['status']}")

    def run(self, prompt: dict, on_event: Callable[[str, object], None] | None = None) -> dict:
        """Submit a prompt and follow it to its end: its history entry, or NodeError.

        Args:
            prompt: the prompt in API format.
            on_event: called with each of ComfyUI's messages, `(type, data)`; a live preview comes as
                `("preview", bytes)`, the bytes of a JPEG or PNG.
        """
        return self.wait(asyncio.run(self._follow(prompt, on_event)) if on_event else self.submit(prompt))

    async def _follow(self, prompt: dict, on_event: Callable[[str, object], None]) -> str:
        address = f"{self.url}/ws?clientId={self.id}"
        # max_msg_size=0: a preview can exceed aiohttp's limit of 4 MiB.
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            prompt_id = self.submit(prompt)
            end = {"type": "executing", "data": {"node": None, "prompt_id": prompt_id}}
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    event = message.json()
                    on_event(event["type"], event["data"])
                    if event == end:
                        return prompt_id
                elif message.type == aiohttp.WSMsgType.BINARY:
                    (kind,) = struct.unpack_from(">I", message.data)
                    if kind == _PREVIEW:
                        on_event("preview", message.data[8:])
        raise ConnectionError(f"{self.url} closed the connection before prompt {prompt_id} ended")

    def interrupt(self) -> None:
        """Interrupt the running prompt."""
        self._post("/interrupt", {})

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """A file of ComfyUI's output, temp or input folder, as a history entry names it."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": type})
        return self._get(f"/view?{query}")

    def system_stats(self) -> dict:
        """ComfyUI's version, its python and its devices."""
        return self._json("/system_stats")

    def object_info(self) -> dict:
        """The definition of every node: `{node id: definition}`."""
        return self._json("/object_info")

    def _json(self, path: str, body: dict | None = None) -> dict:
        return json.loads(self._get(path) if body is None else self._post(path, body))

    def _get(self, path: str) -> bytes:
        with _HTTP.open(self.url + path) as response:
            return response.read()

    def _post(self, path: str, body: dict) -> bytes:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with _HTTP.open(request) as response:
            return response.read()


def _invalid(node_id: str | None, node_type: str | None, error: dict) -> NodeError:
    message = ": ".join(part for part in (error["message"], error["details"]) if part)
    return NodeError(node_id, node_type, error["type"], message)
