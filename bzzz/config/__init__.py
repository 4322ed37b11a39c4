"""One frozen, validated configuration for a node.

Enters: flags, ``BZZZ_*`` environment variables, a TOML file. Leaves: :class:`Config`, or a
:class:`bzzz.errors.ConfigError` in one line that names the key, the value and where it was said.
"""

from bzzz.config.load import CONFIG_VARIABLE, load, problems_of_file
from bzzz.config.options import OPTIONS, Config, Option, Setting
from bzzz.config.reference import reference

__all__ = [
    "CONFIG_VARIABLE",
    "OPTIONS",
    "Config",
    "Option",
    "Setting",
    "load",
    "problems_of_file",
    "reference",
]
