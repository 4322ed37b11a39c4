"""Packaging of Bzzz.

``twisted.plugins`` is listed as a package although it has no ``__init__.py`` here: Twisted finds
``twisted/plugins/*.py`` on every entry of ``sys.path``, and this is what puts the plugin there
from a wheel, from an editable install and from a checkout alike.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="bzzz",
    version="0.1.0",
    description="One encrypted mesh of the machines you already own",
    long_description=(HERE / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license="MIT",
    packages=[*find_packages(include=["bzzz", "bzzz.*"]), "twisted.plugins"],
    package_data={"bzzz": ["py.typed"], "bzzz.wire.pb": ["*.proto", "*.pyi"]},
    python_requires=">=3.11",
    install_requires=[
        "twisted>=26.4",
        "zeroconf>=0.132",
        "ifaddr>=0.2",
        "pynacl>=1.5",
        "txdbus>=1.1",
        "protobuf>=6.30",
        "msgspec>=0.18",
        "klein>=24.8",
        "click>=8.1",
        "rich>=13",
        "setproctitle>=1.3",
        "spake2>=0.9",
        "mnemonic>=0.21",
        "common-expression-language>=0.10",
    ],
    entry_points={"console_scripts": ["bzzz = bzzz.cli.main:main"]},
    classifiers=[
        "Framework :: Twisted",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Typing :: Typed",
    ],
    zip_safe=False,
)
