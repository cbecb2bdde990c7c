"""The browser of the tests: `python -m tools.chromium` installs the system's Chromium where there is none."""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium", "fonts-dejavu-core")


class NoChromium(Exception):
    """There is no Chromium; the message says how to get one."""


def chromium() -> str:
    """Path of the system's Chromium."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    raise NoChromium(
        f"the browser tests need Chromium (one of {', '.join(NAMES)}); on Debian: apt-get install chromium"
    )


def install() -> str:
    """Path of Chromium, installed from Debian's packages where this user may."""
    try:
        return chromium()
    except NoChromium:
        if not shutil.which("apt-get") or os.geteuid() != 0:
            raise
    print("installing Debian's Chromium for the browser tests ...", flush=True)
    for command in (("update", "-qq"), ("install", "-y", "-qq", "--no-install-recommends", *PACKAGES)):
        process = subprocess.run(
            ("apt-get", *command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if process.returncode != 0:
            raise NoChromium(f"apt-get {command[0]} failed: {process.stdout.strip().splitlines()[-1]}")
    return chromium()


if __name__ == "__main__":
    try:
        install()
    except NoChromium as error:
        sys.exit(str(error))
