"""The pack's routes on ComfyUI's server, for its front end."""

import asyncio
import json
from collections.abc import Callable

from aiohttp import web
from server import PromptServer


def answer_post(path: str, answer: Callable[[dict], dict]) -> None:
    """Have POST `path` with a JSON object answer with the JSON object that `answer` returns; ValueError gives 400."""

    async def handle(request: web.Request) -> web.Response:
        try:
            body = json.loads(await request.text())
            return web.json_response(await asyncio.to_thread(answer, body))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    PromptServer.instance.routes.post(path)(handle)
