"""The configuration: the table, the sources and their order, and what is said of each mistake."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.config import OPTIONS, Config, load, options, problems_of_file, reference
from bzzz.errors import ConfigError
from bzzz.tasks.executors import keeper_exec
from bzzz.wire.multiaddr import Multiaddr

HOME = {"HOME": "/home/ada", "PATH": "/bin"}
KEYS = [option.key for option in OPTIONS]


class ConfigTests(SynchronousTestCase):
    """Values reach :class:`Config` from four places."""

    def file(self, text: str) -> str:
        path = Path(self.mktemp())
        path.write_text(text, "utf-8")
        return str(path)

    def error(
        self,
        file: str | None = None,
        flags: dict[str, list[str]] | None = None,
        **environ: str,
    ) -> str:
        failure = self.assertRaises(ConfigError, load, flags or {}, {**HOME, **environ}, file)
        self.assertNotIn("\n", str(failure))
        return str(failure)

    def test_defaults(self) -> None:
        """Without any configuration there is one, for an ordinary user."""
        config = load({}, {**HOME, "XDG_RUNTIME_DIR": "/run/user/1000"})
        self.assertEqual(config.state_dir, Path("/home/ada/.local/state/bzzz"))
        self.assertEqual(config.runtime_dir, Path("/run/user/1000/bzzz"))
        self.assertEqual(config.listen_port, 0)
        self.assertEqual(config.broadcast_interval, 30.0)
        self.assertEqual(config.max_links, 256)
        self.assertIs(config.mdns, True)
        self.assertEqual({setting.source for setting in config.effective()}, {"default"})
        self.assertEqual([setting.key for setting in config.effective()], KEYS)

    def test_directories_follow_xdg(self) -> None:
        """The XDG variables move the directories; a relative one is invalid and ignored."""
        config = load({}, {**HOME, "XDG_STATE_HOME": "/var/ada", "XDG_RUNTIME_DIR": "here"})
        self.assertEqual(config.state_dir, Path("/var/ada/bzzz"))
        self.assertTrue(str(config.runtime_dir).startswith("/tmp/bzzz-"))

    def test_directories_that_systemd_made(self) -> None:
        """A unit's StateDirectory= and RuntimeDirectory= are the defaults, the first of several."""
        config = load({}, {"STATE_DIRECTORY": "/var/lib/a:/b", "RUNTIME_DIRECTORY": "/run/bzzz"})
        self.assertEqual(config.state_dir, Path("/var/lib/a"))
        self.assertEqual(config.runtime_dir, Path("/run/bzzz"))

    def test_every_key_in_a_file(self) -> None:
        """Every option can be set in the file, and each value tells its line."""
        path = self.file(
            'name = "walnut"\nstate_dir = "/s"\nruntime_dir = "/r"\ninterface = ["eth0", "::1"]\n'
            'listen_port = 4001\nbootstrap = ["/ip4/192.0.2.7/tcp/4001"]\nmdns = false\n'
            'capability = ["a", "b", "a"]\nspecialization = "vision"\n'
            'broadcast_interval = "500ms"\n'
            'max_links = 3\nmax_tasks = 0\nstop_timeout = "1m"\nlog_level = "debug"\n'
            'task_forbid_command = ["docker", "/opt/*"]\ntask_forbid_submitter = ["eve"]\n'
            'task_profile = ["no-network"]\ntask_cpus = 1.5\ntask_memory = "16 GiB"\n'
            'task_gpus = 0\ntask_output_limit = "1MB"\ntask_output_quota = 2000000\n'
            'cache_quota = "0.5g"\nexecutor = "process"\n\n'
            '[label]\nrack = "a3"\n'
        )
        config = load({}, HOME, path)
        self.assertEqual(config.name, "walnut")
        self.assertEqual(config.interface, ("eth0", "::1"))
        self.assertEqual(config.bootstrap, (Multiaddr.parse("/ip4/192.0.2.7/tcp/4001"),))
        self.assertEqual(config.capability, ("a", "b"))
        self.assertEqual(config.broadcast_interval, 0.5)
        self.assertEqual(dict(config.label), {"rack": "a3"})
        self.assertEqual(set(config.sources), set(KEYS))
        self.assertEqual(config.task_forbid_command, ("docker", "/opt/*"))
        self.assertEqual(config.task_forbid_submitter, ("eve",))
        self.assertEqual(config.task_profile, ("no-network",))
        self.assertEqual(
            (config.task_cpus, config.task_memory, config.task_gpus), (1.5, 16 << 30, 0)
        )
        self.assertEqual(
            (config.task_output_limit, config.task_output_quota, config.cache_quota),
            (1_000_000, 2_000_000, 1 << 29),
        )
        self.assertEqual(config.sources["label"], f"{path}:26")
        self.assertEqual(config.sources["listen_port"], f"{path}:5")

    def test_precedence(self) -> None:
        """A flag wins over the environment, that over the file; the value tells which it was."""
        path = self.file('name = "file"\nmax_links = 1\nlisten_port = 1\n')
        environ = {**HOME, "BZZZ_NAME": "variable", "BZZZ_MAX_LINKS": "2"}
        config = load({"name": ["first", "last"]}, environ, path)
        self.assertEqual((config.name, config.max_links, config.listen_port), ("last", 2, 1))
        self.assertEqual(config.sources["name"], "flag --name")
        self.assertEqual(config.sources["max_links"], "environment BZZZ_MAX_LINKS")

    def test_lists_replace(self) -> None:
        """A list given in one place replaces that of another, and is not merged with it."""
        path = self.file('interface = ["eth0"]\ncapability = ["x"]\n[label]\na = "1"\n')
        config = load(
            {"interface": ["lo", "eth1"], "label": ["b=2", "c=3=4"]},
            {**HOME, "BZZZ_CAPABILITY": "y, z"},
            path,
        )
        self.assertEqual(config.interface, ("lo", "eth1"))
        self.assertEqual(config.capability, ("y", "z"))
        self.assertEqual(dict(config.label), {"b": "2", "c": "3=4"})

    def test_home_of_another(self) -> None:
        """A home directory that is closed to this user has no configuration for it."""

        def closed(path: object) -> os.stat_result:
            raise PermissionError

        self.patch(os, "stat", closed)
        self.assertEqual(load({}, HOME).sources, {})

    def test_which_file(self) -> None:
        """--config wins over $BZZZ_CONFIG, that over the user's own file, which may be missing."""
        home = Path(self.mktemp()).absolute()
        (home / "bzzz").mkdir(parents=True)
        environ = {**HOME, "XDG_CONFIG_HOME": str(home)}
        load({}, environ)
        (home / "bzzz" / "bzzz.toml").write_text('name = "own"')
        self.assertEqual(load({}, environ).name, "own")
        environ["BZZZ_CONFIG"] = self.file('name = "variable"')
        self.assertEqual(load({}, environ).name, "variable")
        self.assertEqual(load({}, environ, self.file('name = "flag"')).name, "flag")

    def test_empty_variable_is_not_set(self) -> None:
        """A variable that is set to nothing counts as not set."""
        self.assertEqual(load({}, {**HOME, "BZZZ_MAX_LINKS": ""}).max_links, 256)

    def test_frozen(self) -> None:
        """Nobody changes a configuration once it is made, nor the labels in it."""
        config = load({"label": ["a=b"]}, HOME)
        self.assertRaises(dataclasses.FrozenInstanceError, setattr, config, "name", "x")
        self.assertFalse(hasattr(config.label, "__setitem__"))

    def test_made_in_python(self) -> None:
        """A configuration made in Python is checked as one from a file is."""
        address = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")
        config = Config(name="n1", state_dir=Path("/s"), bootstrap=(address,), label={"a": "b"})
        self.assertEqual(config.bootstrap, (address,))
        error = self.assertRaises(ConfigError, Config, listen_port=70000)
        self.assertEqual(str(error), "listen_port: 70000 is not between 0 and 65535")

    def test_unknown_key(self) -> None:
        """An unknown key is named with its line and what was probably meant."""
        path = self.file('name = "x"\n\nlisten_prot = 1\n')
        self.assertEqual(
            self.error(path), f"{path}:3: unknown key 'listen_prot' (did you mean 'listen_port'?)"
        )
        path = self.file("[zzzz]\na = 1\n")
        self.assertEqual(self.error(path), f"{path}:1: unknown key 'zzzz'")
        self.assertEqual(
            self.error(BZZZ_LISTEN_PROT="1"),
            "environment BZZZ_LISTEN_PROT: unknown variable (did you mean 'BZZZ_LISTEN_PORT'?)",
        )

    def test_wrong_types(self) -> None:
        """A value of another type is named with its key, its place and what it should be."""
        for text, wrong in {
            'listen_port = "abc"': "listen_port: 'abc' is not a whole number",
            "listen_port = 1.5": "listen_port: 1.5 is not a whole number",
            "listen_port = true": "listen_port: true is not a whole number",
            "listen_port = -1": "listen_port: -1 is not between 0 and 65535",
            "max_links = 0": "max_links: 0 is not between 1 and 4096",
            "name = 5": "name: 5 is not a string (write it in quotes)",
            'mdns = "no"': "mdns: 'no' is neither true nor false (write it without quotes)",
            'interface = "eth0"': "interface: 'eth0' is not a list (write ['eth0'])",
            "interface = [5]": "interface: 5 is not a string (write it in quotes)",
            "broadcast_interval = nan": "broadcast_interval: nan is not a time"
            " (write for example 30 or '500ms')",
            "broadcast_interval = 0": "broadcast_interval: 0 s is not between 0.1 s and 3600 s",
            "broadcast_interval = inf": "broadcast_interval: inf s is not between 0.1 s and 3600 s",
            "max_links = 9999999999999999999999": "max_links: 9999999999999999999999 is not between"
            " 1 and 4096",
            f"max_links = 0x{'f' * 5000}": "max_links: a number is not between 1 and 4096",
            f"broadcast_interval = 0x{'f' * 5000}": "broadcast_interval: a number s is not between"
            " 0.1 s and 3600 s",
            'label = "a=b"': "label: 'a=b' is not a table (write { key = 'value' })",
            "label = {a = 1}": "label: a = 1 is not a string (write it in quotes)",
            'state_dir = "here"': "state_dir: 'here' is not an absolute path"
            " (start it with / or ~)",
            'task_forbid_command = ["rm -rf"]': "task_forbid_command: 'rm -rf' has a space: a"
            " pattern is for a command's first word (write 'rm')",
            'task_forbid_command = [" "]': "task_forbid_command: ' ' has a space: a pattern is for"
            " a command's first word (write a word)",
            'task_forbid_command = [""]': "task_forbid_command: '' is not a pattern for commands"
            " (at most 255 printable characters, such as docker or /opt/*)",
            'task_forbid_submitter = ["a b"]': "task_forbid_submitter: 'a b' is not the name of a"
            " user or of a machine, nor a peer ID (at most 127 printable characters, and no"
            " spaces)",
            'task_profile = ["root"]': "task_profile: 'root' is none of: default, no-network,"
            " trusted",
            "task_profile = []": "task_profile: a task has some profile: name one (to run no tasks:"
            " max_tasks = 0)",
            'task_cpus = "few"': "task_cpus: 'few' is not a number of cores (write for example 4 or"
            " 1.5), nor 'all'",
            "task_cpus = 1e400": "task_cpus: inf is not between 0 and 65536, nor 'all'",
            "task_cpus = -1": "task_cpus: -1 is not between 0 and 65536, nor 'all'",
            "task_cpus = nan": "task_cpus: nan is not a number of cores (write for example 4 or"
            " 1.5), nor 'all'",
            "task_memory = 16": "task_memory: 16 bytes is not between 1 MiB and 8192 TiB (write the"
            " unit, as in 16GiB), nor 'all'",
            'task_memory = "16 gigs"': "task_memory: '16 gigs' is not a size (write for example"
            " 512MiB or 16GiB), nor 'all'",
            "task_gpus = 65": "task_gpus: 65 is not between 0 and 64, nor 'all'",
            "task_output_limit = true": "task_output_limit: true is not a size (write for example"
            " '512MiB' or '16GiB')",
            f"task_memory = 0x{'f' * 5000}": "task_memory: a number is not between 1 MiB and 8192"
            " TiB, nor 'all'",
            'cache_quota = "all"': "cache_quota: 'all' is not a size (write for example 512MiB or"
            " 16GiB)",
            "cache_quota = 0": "cache_quota: 0 bytes is not between 64 MiB and 1024 TiB",
            'log_level = "loud"': "log_level: 'loud' is none of: debug, info, warn, error",
        }.items():
            path = self.file(f"\n{text}\n")
            self.assertEqual(self.error(path), f"{path}:2: {wrong}")
        path = self.file(f"max_links = {'9' * 5000}")
        self.assertEqual(
            self.error(path), f"{path}: not valid TOML: a number has thousands of digits"
        )
        self.assertEqual(
            self.error(BZZZ_LISTEN_PORT="abc"),
            "environment BZZZ_LISTEN_PORT: 'abc' is not a whole number",
        )
        self.assertEqual(
            self.error(BZZZ_MDNS="maybe"), "environment BZZZ_MDNS: 'maybe' is neither yes nor no"
        )
        self.assertEqual(
            self.error(BZZZ_TASK_CPUS="x"),
            "environment BZZZ_TASK_CPUS: 'x' is not a number of cores (write for example 4 or 1.5),"
            " nor 'all'",
        )
        self.assertEqual(
            self.error(flags={"label": ["rack"]}), "--label: 'rack' is not of the form K=V"
        )
        self.assertEqual(
            self.error(flags={"broadcast_interval": ["30 days"]}),
            "--broadcast-interval: '30 days' is not a time"
            " (write for example 30, 30s, 500ms or 2m)",
        )

    def test_rules_travel(self) -> None:
        """What goes into each broadcast is not longer than that has room for."""
        for key in ("task_forbid_command", "task_forbid_submitter"):
            fits = [f"{number:064}" for number in range(64)]
            self.assertEqual(len(getattr(load({key: fits}, HOME), key)), 64)
            self.assertIn(
                "the entries have 4097 bytes, more than 4096",
                self.error(flags={key: [*fits[:-1], "x" * 65]}),
            )

    def test_all(self) -> None:
        """All of the machine's can be said wherever a part of it can, and is shown so."""
        path = self.file('task_cpus = 1\ntask_memory = "1GiB"\ntask_gpus = 1\n')
        config = load(
            {"task_cpus": ["all"], "task_gpus": ["all"]}, {**HOME, "BZZZ_TASK_MEMORY": "all"}, path
        )
        shown = {setting.key: setting.value for setting in config.effective()}
        for key in ("task_cpus", "task_memory", "task_gpus"):
            self.assertIsNone(getattr(config, key))
            self.assertEqual(shown[key], "all")

    def test_profiles(self) -> None:
        """The profiles of the configuration are those that there are."""
        self.assertEqual(options.PROFILES, keeper_exec.PROFILES)

    def test_bad_multiaddr(self) -> None:
        """A bootstrap address that is none, or not over TCP, is shown with its fault."""
        self.assertEqual(
            self.error(flags={"bootstrap": ["/ip4/300.1.1.1/tcp/1"]}),
            "--bootstrap: /ip4/300.1.1.1/tcp/1: '300.1.1.1' is not an IPv4 address",
        )
        self.assertIn("/ip4/192.0.2.7", self.error(flags={"bootstrap": ["/ip4/192.0.2.7"]}))

    def test_bad_names(self) -> None:
        """Names that would break a table, a log line or a file name are refused."""
        for flags in (
            {"name": ["a b"]},
            {"name": ["x" * 64]},
            {"name": ["a\n"]},
            {"name": [""]},
            {"capability": ["a b"]},
            {"interface": ["192.0.2.300"]},
            {"interface": ["a" * 16]},
            {"label": ["a b=c"]},
            {"label": ["a=\x1b[2J"]},
            {"task_forbid_command": ["a\x1b"]},
            {"task_forbid_command": ["x" * 256]},
            {"task_forbid_submitter": ["x" * 128]},
            {"task_forbid_submitter": ["\u202e"]},
            {"capability": [str(number) for number in range(65)]},
        ):
            self.error(flags=flags)

    def test_broken_file(self) -> None:
        """A file that is missing, no TOML or too long is named, with its line if there is one."""
        path = self.file('name = "x"\nlisten_port 3\n')
        self.assertTrue(self.error(path).startswith(f"{path}:2: not valid TOML: "))
        self.assertEqual(
            self.error("/nonexistent.toml"),
            "/nonexistent.toml: cannot be read: No such file or directory",
        )
        self.assertIn("cannot be read: Is a directory", self.error("/"))
        fifo = self.mktemp()
        os.mkfifo(fifo)
        # Nobody will ever write to it.
        self.assertIn(f"{fifo}: not a file", self.error(fifo))
        for text in ("a = " + "[" * 100_000, "a = " + "9" * 5000, "#" * (1 << 20) + "\n"):
            path = self.file(text)
            self.assertIn(path, self.error(path))
        odd = Path(self.mktemp())
        odd.write_bytes(b'name = "\xff"')
        self.assertIn("not UTF-8", self.error(str(odd)))

    def test_control_characters_are_not_echoed(self) -> None:
        """What is wrong is told in printable characters, whatever the file holds."""
        escape = '"\\u001b[2J"'
        for line in (
            f"{escape} = 1",
            f"label = {{{escape} = 1}}",
            f"interface = [{escape}]",
            f"bootstrap = [{escape}]",
            f"state_dir = {escape}",
            f"name = {escape}",
            "name = \x1b",
        ):
            (problem,) = problems_of_file(Path(self.file(line)))
            self.assertTrue(problem.isprintable(), problem)

    def test_all_problems_of_a_file(self) -> None:
        """A check tells everything that is wrong, in the order of the file."""
        path = self.file('zzz = 1\nlisten_port = "a"\nname = "ok"\nmdns = 1\n')
        lines = [problem.split(": ")[0] for problem in problems_of_file(Path(path))]
        self.assertEqual(lines, [f"{path}:1", f"{path}:2", f"{path}:4"])

    @given(st.dictionaries(st.sampled_from([option.variable for option in OPTIONS]), st.text()))
    def test_any_environment(self, environ: dict[str, str]) -> None:
        """Whatever the variables hold, there is a configuration or a ConfigError."""
        try:
            load({}, {**HOME, **environ})
        except ConfigError:
            pass

    @given(
        st.sampled_from(KEYS),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
    def test_any_value(self, key: str, value: object) -> None:
        """Whatever type a value has, it is taken or refused by a ConfigError."""
        try:
            Config(**{key: value})  # type: ignore[arg-type]
        except ConfigError as error:
            self.assertTrue(str(error).startswith(f"{key}: "))

    def test_reference(self) -> None:
        """The reference has every option with its flag, variable, default and reason."""
        text = reference()
        for option in OPTIONS:
            for part in (option.flag, option.variable, option.reason, option.default_text):
                self.assertIn(part, text)
