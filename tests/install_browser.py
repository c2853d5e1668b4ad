"""Make sure that the browser tests have a browser: the one that is there, else install one.

As root on a Debian-like system with apt, elsewhere Playwright's own. Never fails: where no browser
can be had, the browser tests are skipped and `make test` says so in its summary.
"""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """The path of a Chromium or Chrome on this machine, Playwright's own included."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if os.path.exists(path) else None  # noqa: PTH110  # a plain string from Playwright


def install() -> None:
    """Try to install a browser, showing the installer's own progress."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        commands = [
            ["apt-get", "update", "-q"],
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"],
        ]
    else:
        commands = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    for command in commands:
        subprocess.run(command, check=False)


if __name__ == "__main__":
    if find_browser() is None:
        print("No Chromium or Chrome found; installing one for the browser tests …", flush=True)
        install()
    browser = find_browser()
    print(f"Browser: {browser}" if browser else "NO BROWSER: the browser tests will be skipped.")
