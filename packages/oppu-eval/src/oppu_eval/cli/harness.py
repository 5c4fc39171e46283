"""``oppu lm-eval``: the harness's own command line with our model as the default."""

import os
import sys

import typer
from oppu_core.cli.shared import EVALUATE
from oppu_core.errors import ConfigError

_EPILOG = (
    "Example: [bold]oppu lm-eval --model_args run=runs/quickstart,method=oppu_rag_k1 "
    "--tasks lamp_2m,lamp_4[/bold]"
)


# One line a paragraph: the help keeps line ends.
_HELP = (
    "Score LaMP with lm-evaluation-harness, each user answered by their own adapter.\n\n"
    "The same as [bold]lm_eval[/bold], which knows our tasks (lamp_*) and our model as well, but --model is "
    "oppu unless it is given, and only warnings are logged. [bold]oppu lm-eval run --help[/bold] lists the "
    "options, [bold]oppu lm-eval ls tasks[/bold] the tasks."
)


def register(app: typer.Typer) -> None:
    """Add the command; its options are the harness's."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command("lm-eval", rich_help_panel=EVALUATE, help=_HELP, epilog=_EPILOG, context_settings=settings)(
        lm_eval
    )


def lm_eval(context: typer.Context) -> None:
    """Hand the arguments over.

    Raises:
        ConfigError: the harness refuses them.
    """
    arguments = list(context.args)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(context.get_help())
        return
    from oppu_eval.lm_eval.plugin import register as extend

    extend()
    from lm_eval.__main__ import cli_evaluate

    own = ("-M", "--model", "-C", "--config")
    if arguments[0] not in ("ls", "validate") and not any(a.split("=")[0] in own for a in arguments):
        arguments += ["--model", "oppu"]
    os.environ.setdefault("LMEVAL_LOG_LEVEL", "WARNING")
    sys.argv = ["lm_eval", *arguments]
    try:
        cli_evaluate()
    except (ValueError, FileNotFoundError, AssertionError) as error:  # how the harness refuses its arguments
        raise ConfigError(f"lm_eval: {error}") from error
