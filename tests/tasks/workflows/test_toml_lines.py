"""Lines of a TOML text: every key, table and item is found, where it is."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.workflows.toml_lines import MAX_DEPTH, Lines, Path, TooDeep

# What confuses those who look for keys with a pattern.
STRINGS = [
    '"a"',
    '"[steps.a]"',
    '"a # b"',
    '"\\"]"',
    "'\"'",
    '"""\nname = "x"\n[steps]\n"""',
    '"""a\\\n   b"""',
    '"""""a"""""',
    '"""\\""""',
    "'''\n'a = 1\n''''",
    "''''''",
    '""""""',
    '""',
    "''",
]
BARE = ["1", "-0x1f", "1_000", "inf", "true", "1979-05-27 07:32:00", "1979-05-27T07:32:00Z", "3.1"]
KEYS = ["a", "b", "run", '"a"', '"a b"', "'x.y'", '"[a]"', '"\\u0061#"', "1", '"="', '""']
SCALARS = st.sampled_from(STRINGS + BARE)
GAPS = st.sampled_from(["", " ", "\n", " # ]}\n", "\n\n\t", "\r\n"])


@st.composite
def lists(draw: Any, inner: Any) -> str:
    items = draw(st.lists(inner, max_size=3))
    text: str = "["
    for item in items:
        text += draw(GAPS) + item + draw(GAPS) + ","
    text += draw(GAPS) + "]"
    return text


@st.composite
def tables(draw: Any, inner: Any) -> str:
    pairs = draw(st.lists(st.tuples(st.sampled_from(KEYS), inner), max_size=3))
    return "{ " + ", ".join(f"{key} = {value}" for key, value in pairs) + " }"


VALUES = st.recursive(SCALARS, lambda inner: lists(inner) | tables(inner), max_leaves=5)
NAMES = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3).flatmap(
    lambda keys: st.sampled_from([".", " . ", "\t."]).map(lambda dot: dot.join(keys))
)
STATEMENTS = st.one_of(
    st.tuples(NAMES, VALUES).map(" = ".join),
    NAMES.map(lambda name: f"[ {name} ]"),
    NAMES.map(lambda name: f"[[{name}]] # ["),
    st.just('# [a] "'),
    st.just(""),
)
TEXTS = st.lists(STATEMENTS, max_size=8).map("\n".join)


def paths(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Everything that is in what tomllib read."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*path, key), inner
        yield from paths(inner, (*path, key))


class LineTests(SynchronousTestCase):
    """Against texts written by hand, and against tomllib."""

    def test_by_hand(self) -> None:
        """Each kind of name has its line, and a table that of its header."""
        text = """# [steps.a]
name = "x" # [steps.b]

[steps.fetch.matrix]
python = [
  "3.11", # "3.12"
  "3.13",
]
[steps . "fetch"]
run = '''
[steps.c]
make ${{ matrix.pyton }}
'''
env.CC = "gcc"
from = { fetch = "a", b.c = "d" }
[[list]]
[[list]]
key = 1
[list.sub]
key = 1
"""
        lines = Lines(text)
        for path, line in (
            (("name",), 2),
            (("steps",), 4),
            (("steps", "fetch"), 9),
            (("steps", "fetch", "matrix"), 4),
            (("steps", "fetch", "matrix", "python"), 5),
            (("steps", "fetch", "matrix", "python", 0), 6),
            (("steps", "fetch", "matrix", "python", 1), 7),
            (("steps", "fetch", "run"), 10),
            (("steps", "fetch", "env", "CC"), 14),
            (("steps", "fetch", "from", "b", "c"), 15),
            (("list", 0), 16),
            (("list", 1), 17),
            (("list", 1, "key"), 18),
            (("list", 1, "sub"), 19),
            (("list", 1, "sub", "key"), 20),
            (("steps", "fetch", "nothing"), 9),
            (("nothing",), 1),
        ):
            self.assertEqual(lines.line(path), line, path)
        self.assertEqual(lines.line(("steps", "fetch", "run"), "${{ matrix.pyton }}"), 12)
        self.assertEqual(lines.line(("steps", "fetch", "run"), "not there"), 10)
        with self.assertRaises(KeyError):
            lines.value(("nothing",))

    def test_line_ends(self) -> None:
        """A line ends with a newline or a carriage return and newline, and with nothing else."""
        text = "a = 1\r\nb = '\u2028\u0085'\nc = 1"
        self.assertEqual([Lines(text).line((key,)) for key in "abc"], [1, 2, 3])

    def test_deep(self) -> None:
        """What is nested too deeply is told before it costs anything, and what is not is read."""
        for text, line in (
            ("a = 1\n" + "a." * 60000 + "b = 1", 2),
            ("[a]\n\nb = " + "[" * 60000, 3),
            ("\n[" + "a." * 60000 + "b]", 2),
            ("a = " + "{a = " * 60000, 1),
            ("[[a]]\n" + "[[" + ".".join("a" * 20) + "]]\n" + "b." * 12 + "c = 1", 3),
        ):
            with self.assertRaises(TooDeep) as caught:
                Lines(text)
            self.assertEqual(caught.exception.line, line, text[:50])
        path = ("a",) * MAX_DEPTH
        self.assertEqual(Lines(f"\n{'.'.join(path)} = 1").line(path), 2)

    @given(TEXTS)
    def test_all_found(self, text: str) -> None:
        """What tomllib reads is found, nothing else is, and each value is where it is written."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            assume(False)
            return
        lines = Lines(text)
        there = dict(paths(document))
        self.assertEqual(set(lines), set(there))
        for path, value in there.items():
            written = lines.value(path)
            if written and not written.startswith("[") and not isinstance(value, dict):
                self.assertEqual(repr(tomllib.loads(f"x = {written}")["x"]), repr(value))

    @given(st.lists(st.tuples(st.sampled_from([*KEYS, "steps.a"]), VALUES, GAPS), max_size=6))
    def test_lines(self, pairs: list[tuple[str, str, str]]) -> None:
        """Keys are in the line that they were written in, whatever the values before them have."""
        text, expected = "", []
        for number, (key, value, gap) in enumerate(pairs):
            text += f"\n[table{number}]\n{gap}\n"
            expected.append((text.count("\n") + 1, number))
            text += f"{key} = {value}"
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            assume(False)
            return
        lines = Lines(text)
        for line, number in expected:
            (key,) = document[f"table{number}"]
            self.assertEqual(lines.line((f"table{number}", key)), line)

    @given(st.text(max_size=60) | TEXTS.map(lambda text: text[: len(text) // 2]))
    def test_no_toml(self, text: str) -> None:
        """A text that is no TOML gives some line, and no error."""
        lines = Lines(text)
        for path in lines:
            self.assertGreaterEqual(lines.line(path), 1)

    def test_nothing_there(self) -> None:
        """Where a value should be and is none, nothing is looked for again and again."""
        for text in ("\x1f", '"b"\x1f', "\x85", "\u2028", " \x0b\x0c"):
            for start in ("a = [", "a = [[", 'a = ["x", ', "a = {b = ", "a = "):
                Lines(f"{start}{text}\n[steps.b]\n")
