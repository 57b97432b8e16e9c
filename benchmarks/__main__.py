"""``python -m benchmarks``: what ends it early is a sentence and an exit code.

Imports take seconds, so they are where Ctrl-C and missing packages are met; the commands themselves
are in :mod:`benchmarks.command_line`.
"""

import sys

EXTRAS = {  # of top-level modules that the extra bench does not bring
    "record_keeper": "tensorboard",
    "sentence_transformers": "text",
    "tensorboard": "tensorboard",
}
OURS = ("benchmarks", "pml_extras")


def main() -> None:
    """Run the command line; exit 130 after Ctrl-C, and 2 where a package is missing."""
    try:
        from benchmarks.command_line import app

        app(prog_name="python -m benchmarks")
    except KeyboardInterrupt:
        print("Stopped before anything began.", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if not name or name in OURS:
            raise
        extras = f"bench,{EXTRAS[name]}" if name in EXTRAS else "bench"
        way_out = f'Run `pip install -e ".[{extras}]"`.'
        print(f"Error: {name}: expected an installed package; got none. {way_out}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
