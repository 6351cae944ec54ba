"""Run the command line: ``python -m invalidator`` is the command ``invalidator``."""

from invalidator_cli.main import main

if __name__ == "__main__":
    main(prog_name="invalidator")
