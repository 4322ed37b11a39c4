"""What is installed from a wheel: the package, the plugin and the command, and nothing else."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("bzzz", "twisted", "setup.py", "pyproject.toml", "README.rst", "LICENSE", "MANIFEST.in")

# Says from where twistd has its plugin and the code behind it.
ASK = """
import bzzz, twisted.plugins
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
print(bzzz.__file__)
print(*[path for path in twisted.plugins.__path__ if path.startswith(PLACE)])
print(*[each.tapname for each in getPlugins(IServiceMaker) if each.tapname == "bzzz"])
"""


class WheelTests(SynchronousTestCase):
    """Built from a copy of the tree, so that nothing is left in it."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bzzz-wheel-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        source = self.directory / "source"
        source.mkdir()
        for name in KEPT:
            path = ROOT / name
            if path.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "dropin.cache")
                shutil.copytree(path, source / name, ignore=ignored)
            elif path.exists():
                shutil.copy(path, source / name)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        done = subprocess.run(
            [*pip, *build, "--wheel-dir", str(self.directory), str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        (wheel,) = self.directory.glob("bzzz-*.whl")
        self.place = self.directory / "installed"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.place)

    def test_wheel(self) -> None:
        """twistd finds the plugin, the command is there, types are marked, Twisted stays whole."""
        self.assertEqual(
            sorted(path.name for path in self.place.iterdir() if path.suffix != ".dist-info"),
            ["bzzz", "twisted"],
        )
        self.assertEqual(
            [str(path.relative_to(self.place)) for path in self.place.glob("twisted/**/*.*")],
            ["twisted/plugins/bzzz_plugin.py"],
        )
        self.assertTrue((self.place / "bzzz" / "py.typed").exists())
        (points,) = self.place.glob("bzzz-*.dist-info/entry_points.txt")
        parser = configparser.ConfigParser()
        parser.read(points)
        self.assertEqual(dict(parser["console_scripts"]), {"bzzz": "bzzz.cli.main:main"})

        place = str(self.place)
        said = subprocess.run(
            [sys.executable, "-c", f"PLACE = {place!r}{ASK}"],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": place},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        self.assertEqual(
            said, [f"{place}/bzzz/__init__.py", f"{place}/twisted/plugins", "bzzz"], said
        )
