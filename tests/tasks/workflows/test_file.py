"""Workflows' files: what they say, and everything that is wrong with them, with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.workflows.file import (
    MAX_FILE,
    MAX_PROBLEMS,
    Checks,
    WorkflowFileError,
    parse,
)
from bzzz.tasks.workflows.plan import Instance, Source, Workflow, encode, plan, read_workflow
from bzzz.tasks.workflows.values import Work

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "build.toml"

SMALL = b"""\
name = "small"
max_parallel = 2

[defaults]
timeout = "2m"
env = { LANG = "C", WHO = "all" }

[steps.test]
needs = ["make"]
run = "./app ${{ matrix.kind }}"
cpus = "${{ matrix.cores }}"
env = { WHO = "${{ matrix.kind }}", TEXT = "$${{ matrix.kind }}" }
when = "always"
from.make = "bin"

[steps.test.matrix]
kind = ["fast", "slow"]
cores = [1, 2]

[steps.make]
command = ["make", "-j8"]
in = ["src", "./Makefile"]
out = ["app"]
where = 'arch == "x86_64"'
on = "walnut"
cpus = 0.5
memory = "1.5GiB"
gpus = 1
timeout = 30
retries = 2
restart = false
priority = -3
profile = "no-network"
"""


def problems(text: str | bytes, **checks: Any) -> list[str]:
    """What is said of a file, without its name."""
    data = text if isinstance(text, bytes) else text.encode()
    try:
        parse(data, "f.toml", Checks(**checks))
    except WorkflowFileError as error:
        return [line.removeprefix("f.toml:") for line in str(error).split("\n")]
    return []


class FileTests(SynchronousTestCase):
    """Files that are right."""

    def test_all_keys(self) -> None:
        """Each key is where it belongs, and the steps are in an order in which they can run."""
        workflow = parse(SMALL, "f.toml")
        self.assertEqual((workflow.name, workflow.max_parallel), ("small", 2))
        make, *tests = plan(workflow).instances
        self.assertEqual(
            make,
            Instance(
                "make",
                0,
                "",
                Work(
                    command=("make", "-j8"),
                    env={"LANG": "C", "WHO": "all"},
                    where='arch == "x86_64"',
                    on="walnut",
                    cpus=0.5,
                    memory=3 << 29,
                    gpus=1,
                    timeout=30.0,
                    retries=2,
                    restart=False,
                    priority=-3,
                    profile="no-network",
                    inputs=("src", "Makefile"),
                    outputs=("app",),
                ),
            ),
        )
        self.assertEqual(
            [test.name for test in tests],
            ["test[fast,1]", "test[fast,2]", "test[slow,1]", "test[slow,2]"],
        )
        self.assertEqual(
            tests[3].work,
            Work(
                command=("/bin/sh", "-ec", "./app slow"),
                env={"LANG": "C", "WHO": "slow", "TEXT": "${{ matrix.kind }}"},
                cpus=2.0,
                timeout=120.0,
            ),
        )
        self.assertEqual(tests[0].sources, (Source(0, "bin"),))
        self.assertEqual(plan(workflow).needs, ((), (0,)))

    def test_example(self) -> None:
        """The example of the documentation is right, and kept as it was read."""
        workflow = parse(EXAMPLE.read_bytes(), "docs/examples/build.toml")
        made = plan(workflow)
        self.assertEqual(read_workflow(encode(workflow)), made)
        self.assertEqual(made.paths, ["hello.c", "Makefile"])
        self.assertEqual(
            [source.directory for source in made.instances[-1].sources],
            ["built/c99,0", "built/c99,2", "built/c11,0", "built/c11,2"],
        )

    def test_matrix_order(self) -> None:
        """Instances are in the order of the file, as it was written and as it is kept."""
        text = (
            b"[steps.b]\nrun = 'x'\n[steps.b.matrix]\nz = ['2', '1']\na = ['v', 'u']\n"
            b"[steps.a]\nrun = 'x'\n"
        )
        workflow = parse(text, "f.toml")
        names = ["b[2,v]", "b[2,u]", "b[1,v]", "b[1,u]", "a"]
        for made in (plan(workflow), read_workflow(encode(workflow))):
            self.assertEqual([instance.name for instance in made.instances], names)

    def test_name(self) -> None:
        """Without a name it is called as its file."""
        step = b"[steps.a]\nrun = 'x'"
        self.assertEqual(parse(step, "some/nightly.toml").name, "nightly")
        self.assertEqual(parse(step, "/").name, "workflow")

    def test_encoding(self) -> None:
        """A byte order mark and other line ends are as if they were not there."""
        data = b"\xef\xbb\xbf" + SMALL.replace(b"\n", b"\r\n")
        self.assertEqual(parse(data, "f.toml"), parse(SMALL, "f.toml"))

    def test_order(self) -> None:
        """Steps that do not need each other stay as they are in the file."""
        text = "".join(f"[steps.{name}]\nrun = 'x'\n" for name in "dbac")
        workflow = parse(text.encode() + b"needs = ['a']", "f.toml")
        self.assertEqual([step.name for step in workflow.steps], list("dbac"))

    def test_defaults_of_env(self) -> None:
        """What defaults say stays as it is, in steps whose variables refer to the matrix too."""
        text = """
[defaults.env]
A = "$${{ x }}"
[steps.a]
run = "x"
[steps.b]
run = "x"
env.B = "${{ matrix.n }}"
matrix.n = [1]
"""
        made = plan(parse(text.encode(), "f.toml"))
        self.assertEqual(
            [one.work.env for one in made.instances],
            [{"A": "${{ x }}"}, {"A": "${{ x }}", "B": "1"}],
        )

    def test_labels(self) -> None:
        """Instances have names of their own, whatever is in the matrix."""
        text = """
[steps.a]
run = "x"
[steps.a.matrix]
x = ["a,b", "a", "/", "..", " "]
y = ["c", "b,c"]
"""
        made = plan(parse(text.encode(), "f.toml"))
        names = [one.name for one in made.instances]
        self.assertEqual(len(set(names)), 10)
        self.assertEqual(names[:4], ["a[a,b,c]", "a[a,b,b,c]", "a[a,c]", "a[a,b,c~2]"])
        self.assertEqual(made.instances[6].label, "_.,c")


class ProblemTests(SynchronousTestCase):
    """Files that are wrong."""

    def test_each(self) -> None:
        """Each mistake is told with its line, and what to do."""
        run = "[steps.a]\nrun = 'x'\n"
        for text, *expected in (
            ("", "1: it has no steps (write [steps.NAME]"),
            ("nam = 'x'\n" + run, "1: unknown key 'nam' (did you mean 'name'?)"),
            ("name = 3\n" + run, "1: name: 3 is not a string (write it in quotes)"),
            ("\njobs = 3\n" + run, "2: unknown key 'jobs' (did you mean 'steps'?)"),
            ("steps = 3", "1: steps: 3 is not a table (write [steps.NAME] for each step)"),
            ("[[steps]]\nrun = 'x'", "1: steps: a list is not a table"),
            ("[steps]\na = 3", "2: 3 is not a table (write [steps.a])"),
            ("[steps.'a b']\nrun = 'x'", "1: 'a b' is no name of a step"),
            ("[steps.a]\n", "1: step a has nothing to run"),
            (run + "command = ['x']", "2: step a has both run and command"),
            (run + "script = 'x'", "3: steps.a: unknown key 'script' (did you mean 'run'?)"),
            (run + "needs = 'b'", "3: steps.a.needs: 'b' is not a list (write ['b'])"),
            (
                run + "needs = [\n  'b',\n  'testing',\n]\n[steps.tests]\nrun = 'x'",
                "4: steps.a.needs: unknown step 'b'",
                "5: steps.a.needs: unknown step 'testing' (did you mean 'tests'?)",
            ),
            (run + "cpus = '2'", "3: steps.a.cpus: '2' is not a number of cores"),
            (run + "cpus = nan", "3: steps.a.cpus: nan is not a number of cores"),
            (run + "cpus = 1e400", "3: steps.a.cpus: inf is not between 0 and 65536"),
            (run + f"cpus = 0x{'f' * 5000}", "3: steps.a.cpus: a number is not between"),
            (run + f"timeout = 0x{'f' * 5000}", "3: steps.a.timeout: a number is not between"),
            (run + "timeout = '1e999h'", "3: steps.a.timeout: '1e999h' is not a time"),
            (run + f"memory = 0x{'f' * 5000}", "3: steps.a.memory: a number is not between"),
            (run + "memory = '1e400'", "3: steps.a.memory: '1e400' is not a size"),
            (run + "retries = 99999999999999999999999", "3: steps.a.retries: 99999999999999999"),
            (run + f"retries = {'9' * 5000}", "3: not valid TOML: a number has thousands of dig"),
            (run + "gpus = '2'", "3: steps.a.gpus: '2' is not a whole number (write it without"),
            (run + "memory = '2G'", "3: steps.a.memory: '2G' is not a size (write for example"),
            (run + "memory = 512", "3: steps.a.memory: 512 is less than 1 MiB (write the unit"),
            (run + "timeout = '2 weeks'", "3: steps.a.timeout: '2 weeks' is not a time"),
            (run + "retries = true", "3: steps.a.retries: true is not a whole number"),
            (run + "when = 'failed'", "3: steps.a.when: 'failed' is neither"),
            (run + "when = 'always'", "3: steps.a.when: 'always' is of steps that others come"),
            (
                run + "in = ['/etc', 'a', 'a/b']",
                "3: steps.a.in: '/etc' is absolute",
            ),
            (run + "in = ['a', 'a/b']", "3: steps.a.in: 'a/b' is in 'a' already"),
            (run + "out = ['../a', '.']", "3: steps.a.out: '../a' leads out"),
            (run + "out = ['.']", "3: steps.a.out: '.' would keep what"),
            (
                run + "[steps.a.env]\nA-B = 'x'\nBZZZ_X = 'x'\nC = 1",
                "4: steps.a.env: 'A-B' is no name of a variable",
                "5: steps.a.env: 'BZZZ_X' is set by the node",
                "6: steps.a.env: C: 1 is not a string",
            ),
            (run + "from.b = 'x'", "3: steps.a.from: this step does not need 'b' (write it into"),
            ("[steps.a]\ncommand = 'make'", "2: steps.a.command: 'make' is not a list (write"),
            ("[steps.a]\ncommand = []", "2: steps.a.command: it has no program"),
            ("[steps.a]\nrun = '  '", "2: steps.a.run: it is empty"),
            ("[defaults]\nrun = 'x'\n" + run, "2: run is not for all steps"),
            ("[defaults]\ntimout = 1\n" + run, "2: unknown key 'timout' (did you mean 'timeout'?)"),
            (
                "[defaults]\nenv = { A = '${{ matrix.x }}' }\n" + run,
                "2: defaults.env: ${{ matrix.x }} has no meaning for all steps",
            ),
        ):
            told = problems(text)
            self.assertEqual(len(told), len(expected), (text, told))
            for one, start in zip(told, expected, strict=True):
                self.assertTrue(one.startswith(start), (one, start))

    def test_matrix(self) -> None:
        """Mistakes with the matrix, and references to what is not in it."""
        for text, *expected in (
            ("run = 'x'\nmatrix.n = [3.10]", "3: steps.a.matrix.n: 3.1 is not a string"),
            ("run = 'x'\nmatrix.n = [1, 1]", "3: steps.a.matrix: n has '1' twice"),
            ("run = 'x'\nmatrix.n = []", "3: steps.a.matrix: n has no values"),
            ("run = 'x'\nmatrix = 3", "3: steps.a.matrix: 3 with no list in it"),
            ("run = 'x'\nmatrix.n = [true, '']", *["3: steps.a.matrix.n: "] * 2),
            ("run = '${{ matrix.n }}'", "2: steps.a.run: ${{ matrix.n }} is not known, as this"),
            (
                'run = """\necho\necho ${{ matrix.pyhton }}\n"""\nmatrix.python = [3]',
                "4: steps.a.run: ${{ matrix.pyhton }} is not known (did you mean 'matrix.python'?)",
            ),
            (
                "run = '${{ x }}'\nmatrix.n = [1]",
                "2: steps.a.run: ${{ x }} is not known (there is matrix.n)",
            ),
            ("run = 'x ${{ y'\nmatrix.n = [1]", "2: steps.a.run: ${{ has no }} (write $${{"),
            (
                "run = 'echo ${{ matrix.n }}'\nmatrix.n = ['1', '-a -b']",
                "2: steps.a.run: '-a -b' of matrix.n is not one word for a shell (write"
                " env.N = '${{ matrix.n }}', and \"$N\" in run)",
            ),
            (
                "run = 'x'\ncpus = '${{ matrix.n }}'\nmatrix.n = [1, 'x', 'y']",
                "3: steps.a.cpus: with n = 'x': 'x' is not a number of cores",
            ),
            (
                "run = 'x'\nin = [\n'a',\n'${{ matrix.n }}']\nmatrix.n = ['b', '../c']",
                "5: steps.a.in: with n = '../c': '../c' leads out",
            ),
        ):
            told = problems("[steps.a]\n" + text)
            self.assertEqual(len(told), len(expected), (text, told))
            for one, start in zip(told, expected, strict=True):
                self.assertTrue(one.startswith(start), (one, start))

    def test_cycles(self) -> None:
        """Each cycle is shown once, where it can be cut, beside what else is wrong."""
        text = """
[steps.a]
run = "x"
needs = ["c", "d"]
[steps.b]
run = "x"
needs = ["a"]
[steps.c]
run = "x"
needs = ["b"]
[steps.d]
run = "x"
needs = ["d"]
[steps.e]
run = "x"
needs = ["a", "f"]
"""
        self.assertEqual(
            problems(text),
            [
                "4: steps wait for each other: a -> c -> b -> a; remove one need",
                "13: step d needs itself; remove that",
                "16: steps.e.needs: unknown step 'f'",
            ],
        )

    def test_meeting(self) -> None:
        """A step that may get two files at one place is refused before it does."""
        text = """
[steps.a]
run = "x"
out = ["dist/*.o"]
[steps.b]
run = "x"
out = ["dist", "b"]
matrix.n = [1, 2]
[steps.c]
run = "x"
NEEDS
"""
        for needs, expected in (
            ("needs = ['a']", ""),
            ("needs = ['a', 'b']", "step c gets files of a and of b, and two may be at one"),
            ("needs = ['b']", "step c gets the files of all instances of b, and two may be"),
            ("needs = ['a', 'b']\nfrom.b = 'b'", ""),
            ("needs = ['a', 'b']\nfrom.b = false", ""),
            ("needs = ['a', 'b']\nfrom = {b = 'dist/b.o'}", "step c gets files of a and of b"),
            ("needs = ['a']\nin = ['dist']", ""),
            ("needs = ['a']\nin = ['dist/x.o']", "step c takes 'dist/x.o' from the submitter"),
            ("needs = ['a']\nfrom.a = 'a'\nin = ['a/dist/x.o']", "step c takes 'a/dist/x.o'"),
        ):
            told = problems(text.replace("NEEDS", needs))
            self.assertEqual(len(told), bool(expected), (needs, told))
            if expected:
                self.assertTrue(told[0].startswith("11: " + expected), told)

    def test_checks(self) -> None:
        """What others know is asked of them, with the matrix put in, once for each value."""
        asked: list[str] = []

        def check(value: str) -> str | None:
            asked.append(value)
            return f"{value} is bad" if "bad" in value else None

        text = """
[defaults]
where = "bad0"
[steps.a]
run = "x"
where = "bad1"
on = "bad2"
profile = "bad3"
in = ["fine", "bad4"]
[steps.b]
run = "x"
where = "${{ matrix.n }}"
matrix.n = ["good", "bad5", "bad6"]
"""
        self.assertEqual(
            problems(text, where=check, on=check, profile=check, inputs=check),
            [
                "3: defaults.where: bad0 is bad",
                "6: steps.a.where: bad1 is bad",
                "7: steps.a.on: bad2 is bad",
                "8: steps.a.profile: bad3 is bad",
                "9: steps.a.in: bad4 is bad",
                "12: steps.b.where: with n = 'bad5': bad5 is bad",
            ],
        )
        self.assertEqual(len(asked), len(set(asked)))

    def test_syntax(self) -> None:
        """What is no TOML is told in plain words, with line and column."""
        for text, expected in (
            ("name = 'x'\nname = 'y'", "2:11: not valid TOML: this was given a value before"),
            ("name = x", "1:8: not valid TOML: this is no value"),
            ("name 'x'", "1:6: not valid TOML: after the key an = is missing"),
            ("a = 'x' b", "1:9: not valid TOML: there is something behind the value"),
            ("[a\nb = 1", "1:3: not valid TOML: the name of the table has no ]"),
            ('a = "x\nb', "1:7: not valid TOML: a string has no quotes at the end of its line"),
            ("a = 'x\nb", "2:2: not valid TOML: a string has no ' at its end"),
            ('a = "\\x"', "1:8: not valid TOML: a backslash in"),
            ("\na = [1, 2\n", "2:10: not valid TOML: a list has no ]"),
            ("[a]\n[a]", "2:3: not valid TOML: this table was there before"),
            ("\na = " + "[" * 5000, "2: more than 32 levels deep"),
            ("\n\n" + "a." * 60000 + "b = 1", "3: more than 32 levels deep"),
            ("[a" + " . a" * 30000 + "]", "1: more than 32 levels deep"),
            ("a = " + "1" * 5000, "1: not valid TOML: "),
            (b"a = 1\nb = '\xff'", "2: not UTF-8 text"),
            (b"#" * (MAX_FILE + 1), "1: it is longer than 131072 bytes"),
        ):
            told = problems(text)
            self.assertEqual(len(told), 1, told)
            self.assertTrue(told[0].startswith(expected), (told[0], expected))

    def test_caps(self) -> None:
        """What would be too much is refused, with what to do."""
        step = "[steps.a{}]\nrun = 'x'\n"
        many = "".join(step.format(number) for number in range(1001))
        big = "".join(step.format(n) + f"env.A = '{'x' * 110}'\n" for n in range(800))
        numbers = str(list(range(40)))
        long = f"[steps.a]\nrun = '''{'${{matrix.n}}' * 2200}'''\nmatrix.n = ['{'y' * 64}']"
        wide = (
            f"[steps.a]\nrun = 'x'\nout = ['${{{{matrix.n}}}}']\nmatrix.n = {list(range(257))}"
            "\n[steps.b]\nrun = 'x'\nneeds = ['a']"
        )
        files = "".join(step.format(n) + f"in = ['f{n}']\n" for n in range(257))
        for text, expected in (
            (many, "1: 1001 steps are more than 1000"),
            (
                step.format("") + f"[steps.a.matrix]\nx = {numbers}\ny = {numbers}",
                "3: all steps together have 1600 instances, 1600 of them in a, and 1000 at most",
            ),
            (big, "1: the workflow takes"),
            (long, "1: step 'a' takes"),
            (wide, "1: step 'b' gets the files of 257 instances and of 0 paths, and 256 together"),
            (
                f"[steps.a]\nrun = '{'${{matrix.n}}' * 1001}'\nmatrix.n = {list(range(50))}",
                "2: steps.a.run: 1001 references for each of 50 instances are too many",
            ),
            (files, "1: its steps take 257 files and directories, and 256 at most"),
        ):
            told = problems(text)
            self.assertEqual(len(told), 1, told)
            self.assertTrue(told[0].startswith(expected), (told[0][:200], expected))

    def test_many(self) -> None:
        """Of a file with more mistakes than anybody reads, so many are told and no more."""
        told = problems("".join(f"[steps.a{n}]\nrum = 1\n" for n in range(900)))
        self.assertEqual(len(told), MAX_PROBLEMS + 1)
        self.assertIn("no more is looked for", told[-1])

    @given(st.text(max_size=200) | st.binary(max_size=200))
    def test_any_text(self, text: str | bytes) -> None:
        """Whatever a file has in it, it is a workflow or is refused with a line."""
        self.told(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))

    @settings(max_examples=200)
    @given(
        st.sampled_from([SMALL, EXAMPLE.read_bytes()]),
        st.lists(
            st.tuples(
                st.floats(0, 1),
                st.integers(0, 12),
                st.binary(max_size=3)
                | st.sampled_from(
                    b"' \" [ ] { } = \n ${{ }} # . nan true 1e9 [steps.a] a. 'a', \\ 0".split(b" ")
                ),
            ),
            min_size=1,
            max_size=3,
        ),
    )
    def test_mutations(self, data: bytes, changes: list[tuple[float, int, bytes]]) -> None:
        """A workflow that was cut, or had something put in, is one or is refused with a line."""
        for place, cut, put in changes:
            at = int(place * len(data))
            data = data[:at] + put + data[at + cut :]
        self.told(data)

    @given(
        st.dictionaries(
            st.sampled_from(["name", "steps", "defaults", "max_parallel", "x"]),
            st.recursive(
                st.sampled_from(["1", "'a'", "-1.5", "true", "inf", "1979-05-27", "'${{ x }}'"]),
                lambda inner: (
                    st.lists(inner, max_size=2).map(lambda i: f"[{', '.join(i)}]")
                    | st.dictionaries(
                        st.sampled_from(
                            ["a", "run", "command", "needs", "matrix", "from", "in", "out", "env"]
                        ),
                        inner,
                        max_size=4,
                    ).map(lambda d: "{" + ", ".join(f"{k} = {v}" for k, v in d.items()) + "}")
                ),
                max_leaves=12,
            ),
        )
    )
    def test_any_types(self, table: dict[str, str]) -> None:
        """A value of any type in any place is told, and nothing else comes of it."""
        self.told("\n".join(f"{key} = {value}" for key, value in table.items()).encode())

    def told(self, data: bytes) -> None:
        lines = data.count(b"\n") + 1
        try:
            workflow = parse(data, "f.toml")
        except WorkflowFileError as error:
            for problem in error.problems:
                self.assertIn(problem.line, range(1, lines + 1))
                self.assertTrue(problem.message)
        else:
            self.kept(workflow)

    def kept(self, workflow: Workflow) -> None:
        """What was read is what a replica reads of it."""
        self.assertEqual(read_workflow(encode(workflow)).workflow, workflow)
