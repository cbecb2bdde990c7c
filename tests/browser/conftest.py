"""One real ComfyUI server and one real Chromium per test run; a fresh page for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from browser.front_end import FrontEnd, launch, make_user
from example_workflows import put_models
from tools.server import Server
from tools.setup import BASE, FOOTAGE_NAME, REPO, make_base

PROBE_NODES = REPO / "tests" / "host" / "probe_nodes"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("browser")
    models = put_models(tmp_path_factory.mktemp("models"))
    make_base(base, BASE / "input" / FOOTAGE_NAME, models=models, extra_nodes=[PROBE_NODES])
    make_user(base)
    with Server(base) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def own_messages(server: Server, browser: Browser) -> set[tuple[str, str]]:
    """What the front end itself complains about: the console without this pack."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    front_end = FrontEnd(page, server.client, with_pack=False)
    page.wait_for_timeout(2000)
    page.close()
    return set(front_end.messages)


@pytest.fixture
def front_end(server: Server, browser: Browser, own_messages: set) -> Iterator[FrontEnd]:
    """A page with an empty graph; the test fails if the console says more than it does without this pack."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    front_end = FrontEnd(context.new_page(), server.client)
    front_end.clear()
    yield front_end
    context.close()
    assert [message for message in front_end.messages if message not in own_messages] == []


@pytest.fixture
def example_workflows() -> Path:
    return REPO / "example_workflows"
