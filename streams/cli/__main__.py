"""``python -m streams.cli`` is the command ``visual-memory``."""

from streams.cli import main

if __name__ == "__main__":
    main()
