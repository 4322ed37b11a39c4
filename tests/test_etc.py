"""The files of ``etc/``: what they say is what the code does, and systemd takes the unit."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.config import OPTIONS, Config, problems_of_file
from bzzz.net.ports import PORTS
from tests.needs import find_tool, needs, without_tools

ETC = Path(__file__).resolve().parent.parent / "etc"
UNIT = ETC / "systemd" / "bzzz.service"

MDNS_PORT = 5353

# What `systemd-analyze security` says of the unit, at most; 10 is a service without any limits.
EXPOSURE = 2.0


class ConfigFileTests(SynchronousTestCase):
    """The configuration file that the installer puts into ``/etc/bzzz``."""

    path = ETC / "bzzz.toml"

    def uncommented(self) -> dict[str, Any]:
        """What the file says once each key has lost its ``#``."""
        lines = self.path.read_text("utf-8").splitlines()
        return tomllib.loads("\n".join(re.sub(r"^#(?=\w+ = )", "", line) for line in lines))

    def test_says_nothing(self) -> None:
        """As it is shipped it is valid, and sets nothing."""
        self.assertEqual(problems_of_file(self.path), [])
        self.assertEqual(tomllib.loads(self.path.read_text("utf-8")), {})

    def test_every_key(self) -> None:
        """It has each key of the table, in its order, and no other."""
        self.assertEqual(list(self.uncommented()), [option.key for option in OPTIONS])

    def test_defaults(self) -> None:
        """The values shown are valid, and are the defaults where these do not depend on a host."""
        shown = self.uncommented()
        config = Config(**shown)
        depends = {"name", "state_dir", "runtime_dir", "max_tasks"}
        for option in OPTIONS:
            if option.key not in depends:
                value = getattr(config, option.key)
                self.assertEqual(value, option.default({}), option.key)
        # These are what the unit has made.
        made = {"STATE_DIRECTORY": "/var/lib/bzzz", "RUNTIME_DIRECTORY": "/run/bzzz"}
        for key in ("state_dir", "runtime_dir"):
            (option,) = (option for option in OPTIONS if option.key == key)
            self.assertEqual(shown[key], str(option.default(made)))

    def test_a_line_each(self) -> None:
        """Each key has one line of explanation right above it."""
        lines = self.path.read_text("utf-8").splitlines()
        for number, line in enumerate(lines):
            if re.match(r"#\w+ = ", line):
                self.assertRegex(lines[number - 1], r"^# \S", line)
                self.assertEqual(lines[number - 2], "", line)


class UnitTests(SynchronousTestCase):
    """The unit, without systemd."""

    def test_settings(self) -> None:
        """What the running cluster and the manual ask of it."""
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way
        parser.read(UNIT)
        service = parser["Service"]
        wanted = {
            "Type": "simple",
            "NotifyAccess": "main",
            "User": "bzzz",
            "Group": "bzzz",
            "UMask": "0077",
            "StateDirectoryMode": "0700",
            "RuntimeDirectoryMode": "0750",
            "LimitCORE": "0",
            "WorkingDirectory": "/var/lib/bzzz",
            "Restart": "always",
            "RestartSec": "10",
            "TimeoutStopSec": "30",
            "LimitNOFILE": "65536",
            "LimitNPROC": "4096",
            "NoNewPrivileges": "yes",
            "PrivateTmp": "yes",
            "ProtectSystem": "strict",
            "ProtectHome": "read-only",
            "InaccessiblePaths": "-/home -/root",
        }
        self.assertEqual({key: service[key] for key in wanted}, wanted)
        self.assertIn("twistd --nodaemon --pidfile= bzzz ", service["ExecStart"])
        self.assertEqual(parser["Install"]["WantedBy"], "multi-user.target")

    def test_users_have_names(self) -> None:
        """Who asks over the control socket is not called nobody."""
        self.assertNotIn("\nPrivateUsers=", UNIT.read_text("utf-8"))

    def test_substituted_lines(self) -> None:
        """The installer finds the lines that depend on the user, once each, at a line's start."""
        text = UNIT.read_text("utf-8")
        for key in ("User", "Group", "RuntimeDirectoryMode"):
            self.assertEqual(len(re.findall(rf"(?m)^{key}=", text)), 1, key)
        self.assertEqual(
            re.findall(r"(?m)^.*user@.*$", text),
            ["After=user@UID.service", "Wants=user@UID.service", "Upholds=user@UID.service"],
        )


@needs(without_tools("systemd-analyze"))
class AnalyzeTests(SynchronousTestCase):
    """What systemd says of the unit; it need not run for that."""

    def analyze(self, *arguments: str) -> tuple[int, str]:
        tool = find_tool("systemd-analyze")
        assert tool is not None
        done = subprocess.run(
            [tool, "--no-pager", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout

    def test_verify(self) -> None:
        """systemd knows each setting, and has nothing to say."""
        directory = Path(self.mktemp())
        directory.mkdir()
        self.addCleanup(shutil.rmtree, directory)
        unit = directory / "bzzz.service"
        # It looks for the programs too, and they are not installed.
        unit.write_text(re.sub(r"/opt/bzzz/current/bin/\w+", "/bin/true", UNIT.read_text("utf-8")))
        # It warns of a setting that it does not know, and calls that a success.
        self.assertEqual(self.analyze("verify", "--man=no", str(unit.absolute())), (0, ""))

    def test_exposure(self) -> None:
        """The node may do little that it does not need."""
        threshold = f"--threshold={int(EXPOSURE * 10)}"
        code, output = self.analyze("security", "--offline=yes", threshold, str(UNIT))
        found = re.search(r"Overall exposure level for bzzz.service: ([\d.]+)", output)
        assert found is not None, output
        print(f"\nexposure of the unit: {found[1]}")
        self.assertLessEqual(float(found[1]), EXPOSURE)
        self.assertEqual(code, 0, output)


class FirewallTests(SynchronousTestCase):
    """The services that are described to ufw and firewalld."""

    def test_ufw(self) -> None:
        """ufw lets in the ports that a node chooses from, and mDNS."""
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(ETC / "ufw" / "bzzz")
        self.assertEqual(
            parser["Bzzz"]["ports"], f"{PORTS.start}:{PORTS.stop - 1}/tcp|{MDNS_PORT}/udp"
        )
        self.assertEqual(set(parser["Bzzz"]), {"title", "description", "ports"})

    def test_firewalld(self) -> None:
        """And so does firewalld."""
        root = ET.parse(ETC / "firewalld" / "bzzz.xml").getroot()
        self.assertEqual(root.tag, "service")
        self.assertEqual(
            [(port.get("protocol"), port.get("port")) for port in root.iter("port")],
            [("tcp", f"{PORTS.start}-{PORTS.stop - 1}"), ("udp", str(MDNS_PORT))],
        )
