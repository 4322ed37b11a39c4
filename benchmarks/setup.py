"""Gets what the benchmarks measure beside Bzzz: js-libp2p, py-libp2p, Serf, Dask, Celery, Redis.

    python -m benchmarks.setup

js-libp2p goes into ``benchmarks/peers/js/node_modules`` with the versions of the lock there,
py-libp2p into ``benchmarks/peers/py/.venv`` with those of its requirements.txt, Dask and Celery
into ``benchmarks/peers/queues/.venv``; git ignores them. Serf and Redis are Debian packages
and installed by root only. What cannot be had is named, and the benchmarks leave it out. The second
time it does nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.common import JS, PY, PY_PYTHON, QUEUES

__all__ = ["install_queues", "main"]

# Files of the library with the mark of what is installed.
STAMP = ".installed"


def current(stamp: Path, lock: Path) -> bool:
    """Whether what the lock asks for is installed."""
    return stamp.exists() and stamp.read_text() == lock.read_text()


def js() -> str | None:
    """js-libp2p; the reason why not, or None."""
    lock, modules = JS / "package-lock.json", JS / "node_modules"
    if shutil.which("npm") is None:
        return "npm not found: apt-get install nodejs npm"
    if not current(modules / STAMP, lock):
        subprocess.run(
            ["npm", "ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=JS,
            check=True,
        )
        shutil.copyfile(lock, modules / STAMP)
    return None


def py() -> str | None:
    """py-libp2p; the reason why not, or None."""
    lock, venv = PY / "requirements.txt", PY / ".venv"
    if not current(venv / STAMP, lock):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        subprocess.run(
            [str(PY_PYTHON), "-m", "pip", "install", "-q", "-r", str(lock)],
            check=True,
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )
        shutil.copyfile(lock, venv / STAMP)
    return None


def install_queues() -> str | None:
    """Dask distributed and Celery; the reason why not, or None."""
    lock, venv = QUEUES / "requirements.txt", QUEUES / ".venv"
    if current(venv / STAMP, lock):
        return None
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        subprocess.run(
            [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(lock)],
            check=True,
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    shutil.copyfile(lock, venv / STAMP)
    return None


def queues() -> str | None:
    """The same with Redis."""
    return install_queues() or package("redis-server")


def serf() -> str | None:
    """Serf; the reason why not, or None."""
    return package("serf")


def package(name: str) -> str | None:
    """A Debian package whose program has its name; the reason why not, or None."""
    if shutil.which(name) is not None:
        return None
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", name]
    if os.geteuid() != 0:
        return f"it is missing, and only root installs it: sudo {' '.join(command)}"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return None


def main() -> None:
    """Get all of them."""
    peers = {
        "js-libp2p": js,
        "py-libp2p": py,
        "serf": serf,
        "Dask, and Celery with Redis": queues,
    }
    for name, get in peers.items():
        try:
            problem = get()
        except (OSError, subprocess.SubprocessError) as error:
            problem = str(error)
        print(f"{name}: {problem or 'ready'}", flush=True)


if __name__ == "__main__":
    main()
