"""The commands that also work without a node."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed

from bzzz.cli import local_doctor
from bzzz.config import OPTIONS
from bzzz.discovery.doctor import Finding as Found
from bzzz.web.schema import Finding
from tests.cli.node import CommandTests


class ConfigCommandTests(CommandTests):
    """config show, config check."""

    def file(self, text: str) -> str:
        path = Path(self.mktemp()).absolute()
        path.write_text(text)
        return str(path)

    def test_sizes(self) -> None:
        """Sizes are shown with their units, and are bytes for programs."""
        path = self.file('task_memory = "1.5GiB"\ncache_quota = 100000001\nmax_links = 1024\n')
        shown = dict(
            re.split(" {2,}", line)[:2]
            for line in self.output("config", "show", "--config", path).splitlines()
        )
        self.assertEqual(
            [shown[key] for key in ("task_memory", "cache_quota", "task_output_quota")],
            ["1536 MiB", "100000001 bytes", "1 GiB"],
        )
        self.assertEqual((shown["max_links"], shown["task_cpus"]), ("1024", "all"))
        answer = json.loads(self.output("config", "show", "--config", path, "--json"))
        values = {entry["key"]: entry["value"] for entry in answer["config"]}
        self.assertEqual((values["task_memory"], values["task_gpus"]), (3 << 29, "all"))

    def test_show_of_the_node(self) -> None:
        """The running node's values and where each came from."""
        lines = self.output("config", "show").splitlines()
        self.assertEqual(lines[1].split(), ["name", "walnut", "flag", "--name"])
        self.assertEqual(lines[3].split(), ["label", "rack=a3", "/etc/bzzz/bzzz.toml:3"])

    def test_show_without_a_node(self) -> None:
        """Without a node, what one started here would use; stderr says so, and JSON stays JSON."""
        self.node = None
        result = self.run_command("config", "show", "--json", BZZZ_MAX_LINKS="7")
        self.assertIn("No node is running", result.stderr)
        entries = {entry["key"]: entry for entry in json.loads(result.stdout)["config"]}
        self.assertEqual(list(entries), [option.key for option in OPTIONS])
        self.assertEqual(
            entries["max_links"],
            {"key": "max_links", "value": 7, "source": "environment BZZZ_MAX_LINKS"},
        )

    def test_show_of_a_file(self) -> None:
        """With a file, what a node started with it would use, also while one runs."""
        path = self.file("mdns = false\n")
        self.assertRegex(
            self.output("config", "show", "--config", path), rf"(?m)^mdns +no +{path}:1$"
        )
        self.assertEqual(self.asked, [])

    def test_show_of_a_wrong_file(self) -> None:
        """What is wrong with it, in one line."""
        path = self.file("mdns = 3\n")
        result = self.run_command("config", "show", "--config", path)
        self.assertEqual(result.exit_code, 1)
        self.assertTrue(result.stderr.startswith(f"{path}:1: mdns: 3 is neither"))

    def test_check(self) -> None:
        """A file that is right is 0, one that is not is 1 with everything that is wrong."""
        path = self.file("max_links = 5\n")
        self.assertEqual(self.output("config", "check", path), f"{path}: ok\n")
        path = self.file('listen_prot = 1\nmax_links = "x"\n')
        result = self.run_command("config", "check", path)
        self.assertEqual(result.exit_code, 1)
        self.assertEqual(
            result.stdout.splitlines(),
            [
                f"{path}:1: unknown key 'listen_prot' (did you mean 'listen_port'?)",
                f"{path}:2: max_links: 'x' is not a whole number",
            ],
        )
        answer = json.loads(self.run_command("config", "check", path, "--json").stdout)
        self.assertEqual((answer["ok"], len(answer["problems"])), (False, 2))


class DoctorCommandTests(CommandTests):
    """doctor."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(os, "geteuid", lambda: 1000)

    def test_root_sees_the_firewall(self) -> None:
        """What the node may not see of the firewall is told by the command itself to root."""
        node = self.node
        assert node is not None
        hidden = Finding(check="firewall", level="info", message="only told to root")
        self.patch(node, "findings", succeed([hidden]))
        ports: list[int | None] = []

        def examine(port: int | None) -> list[dict[str, str]]:
            ports.append(port)
            return [{"check": "firewall", "level": "warning", "message": "ufw lets in nothing"}]

        self.patch(local_doctor, "examine_firewall_here", examine)
        self.assertIn("only told to root", self.output("doctor"))
        self.patch(node, "findings", succeed([hidden]))
        self.patch(os, "geteuid", lambda: 0)
        shown = self.output("doctor")
        self.assertIn("ufw lets in nothing", shown)
        self.assertNotIn("only told to root", shown)
        self.assertEqual(ports, [40001])

    def test_findings(self) -> None:
        """Each finding with its mend below; warnings are no reason for an exit code."""
        lines = self.output("doctor").splitlines()
        self.assertEqual(lines[1].split()[:2], ["ok", "interfaces"])
        self.assertIn("-> let UDP port 5353 through the firewall", lines[3])

    def test_error(self) -> None:
        """An error is exit code 1."""
        assert self.node is not None
        self.node.findings = succeed([Finding(check="clock", level="error", message="stopped")])
        self.assertEqual(self.run_command("doctor").exit_code, 1)

    def test_without_a_node(self) -> None:
        """Without a node the machine is examined all the same, but for what only a node has."""
        self.node = None
        asked: list[Sequence[str]] = []

        class FakeDoctor:
            def __init__(self, *args: Any) -> None:
                pass

            def examine(self, health: Any) -> Deferred[list[Found]]:
                return succeed(
                    [
                        Found("mdns", "warning", "off"),
                        Found("interfaces", "error", "none is used", "plug in"),
                        Found("firewall", "unknown", "it may not be looked at"),
                    ]
                )

        self.patch(local_doctor, "Doctor", FakeDoctor)
        self.patch(local_doctor, "system_interfaces", list)
        self.patch(local_doctor, "judge", lambda found, wanted: asked.append(wanted))
        result = self.run_command("doctor", "--json", BZZZ_INTERFACE="eth7")
        self.assertEqual(result.exit_code, 1)
        findings = json.loads(result.stdout)["findings"]
        self.assertEqual(
            [(finding["check"], finding["level"]) for finding in findings],
            [("node", "warning"), ("interfaces", "error"), ("firewall", "info")],
        )
        self.assertEqual(asked, [("eth7",)])

    def test_wrong_configuration(self) -> None:
        """A wrong configuration is a finding too."""
        self.node = None
        self.patch(local_doctor, "examine", lambda wanted: [])
        result = self.run_command("doctor", "--json", BZZZ_MDNS="perhaps")
        self.assertEqual(json.loads(result.stdout)["findings"][1]["check"], "config")
        self.assertEqual(result.exit_code, 1)


class LocalDoctorTests(CommandTests):
    """The doctor's own code on this machine."""

    def test_run(self) -> None:
        """A command's output, or a failure with its name."""
        self.assertEqual(self.successResultOf(local_doctor._run(["/bin/echo", "a"], 5.0)), b"a\n")
        failure = self.failureResultOf(local_doctor._run(["/bin/false"], 5.0))
        self.assertIn("/bin/false", str(failure.value))
        self.failureResultOf(local_doctor._run(["/nonexistent"], 5.0))


class CompletionTests(CommandTests):
    """completion."""

    def test_shells(self) -> None:
        """A script for each shell, which asks the command."""
        for shell in ("bash", "zsh", "fish"):
            self.assertIn("_BZZZ_COMPLETE", self.output("completion", shell))
        self.assertEqual(self.run_command("completion", "csh").exit_code, 2)
