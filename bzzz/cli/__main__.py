"""``python -m bzzz.cli`` is the ``bzzz`` command."""

from bzzz.cli.main import main

if __name__ == "__main__":
    main()
