"""One real ComfyUI server per test run, in a base directory of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.client import Client
from tools.server import Server
from tools.setup import BASE, FOOTAGE_NAME, make_base

PROBE_NODES = Path(__file__).parent / "probe_nodes"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("host")
    make_base(base, BASE / "input" / FOOTAGE_NAME, models=BASE / "models", extra_nodes=[PROBE_NODES])
    with Server(base) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Client:
    return server.client
