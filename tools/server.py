"""The real ComfyUI server: `with Server() as server`, or `python -m tools.server PORT` for a browser."""

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
from pathlib import Path

import torch

from .client import Client
from .setup import BASE, Host

# For glibc. Freed memory goes back to the system at once, or stays for the next tensor.
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
_KEEP = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TOP_PAD_": str(2**27),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}
_START_SECONDS = 180
_STOP_SECONDS = 20


class ServerError(Exception):
    """The server did not start; the message ends with the end of its log."""


class Server:
    """A ComfyUI server on a free loopback port for as long as the `with` block lasts.

    With keep_memory it holds as much memory as it ever used. Small models, whose tensors come and go in milliseconds,
    need it: a training step of the small world then takes six tenths of the time.

    Attributes:
        base: the base directory it runs in (models, input, output, ...), made by `setup.make_base`.
        log: the file that takes everything it prints.
        client: a Client of it, from the start of the block on.
    """

    def __init__(self, base: Path = BASE, keep_memory: bool = False):
        self.base = base
        self._keep_memory = keep_memory
        self.log = base / "server.log"

    def __enter__(self) -> "Server":
        port = _free_port()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command(port, self.base),
                env=environment(self._keep_memory),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.client = Client(f"http://127.0.0.1:{port}")
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._stop)
            self._wait_until_ready()
            on_failure.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            try:
                self.client.system_stats()
                return
            except (urllib.error.URLError, ConnectionError):
                pass
            if self._process.poll() is not None:
                raise ServerError(f"ComfyUI ended with exit code {self._process.returncode}\n{self.log_tail()}")
            time.sleep(0.2)
        raise ServerError(f"ComfyUI did not answer within {_START_SECONDS} s\n{self.log_tail()}")

    def log_tail(self, lines: int = 30) -> str:
        """The end of the server's log, below the log's name."""
        text = re.sub(r"\x1b\[[\d;]*m", "", self.log.read_text(errors="replace"))
        tail = text.splitlines()[-lines:]
        return "\n".join([f"the end of {self.log}:", *tail])

    def _stop(self) -> None:
        # The server leads its own process group, so its children go with it.
        for number in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(_STOP_SECONDS)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


def command(port: int, base: Path = BASE) -> list[str]:
    """The command that starts ComfyUI on loopback `port` in base directory `base`."""
    host = Host.load()
    return [
        str(host.python),
        str(host.comfyui / "main.py"),
        *([] if torch.cuda.is_available() else ["--cpu"]),
        *("--listen", "127.0.0.1"),
        *("--port", str(port)),
        *("--base-directory", str(base)),
        *("--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}"),
        *("--preview-method", "latent2rgb"),
        "--disable-auto-launch",
        "--disable-api-nodes",
    ]


def environment(keep_memory: bool = False) -> dict[str, str]:
    """The server's environment: no library asks a model hub for anything.

    Unless set otherwise: one thread, as the demo models are too small to share among more (two threads on two busy
    cores take several times as long).
    """
    defaults = {"OMP_NUM_THREADS": "1"} | (_KEEP if keep_memory else _GIVE_BACK)
    return defaults | os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.server", description="ComfyUI for a browser.")
    parser.add_argument("port", type=int)
    arguments = command(parser.parse_args().port)
    os.execve(arguments[0], arguments, environment())
