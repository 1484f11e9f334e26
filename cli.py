"""The command line: `python cli.py COMMAND` from a checkout, `adcert COMMAND` once installed.

Each command imports what it needs when it runs, so that `--help` stays fast and verification never loads torch.
Human output goes to stderr, machine output to stdout. Exit codes are the project's interface:
0 done, 1 refuted or below a threshold, 2 usage, 3 undecided, 4 model or property unsupported, 70 internal error.
"""

from __future__ import annotations

import sys

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Train certifiably robust classifiers, export them to ONNX, and prove what the deployed file answers."""


def main() -> None:
    """Run the command line; whatever a user can cause ends in one sentence and an exit code, not in a traceback."""
    from verify.errors import Problem

    try:
        commands(standalone_mode=False)
    except Problem as problem:
        fail(str(problem), problem.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", 130)
    except OSError as error:
        fail(str(error), 2)
    except Exception:
        import traceback

        traceback.print_exc()
        fail("this is a defect of adcert: please report it with the lines above", 70)


def fail(sentence: str, exit_code: int) -> None:
    """Say what went wrong on stderr and leave with `exit_code`."""
    click.echo(f"Error: {sentence}", err=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
