"""The command line: every verb is listed here, under the heading that `--help` shows it with.

A verb is a function in the file of its group; heavy libraries are imported inside it. Options are
in `flows/cli/options.py`.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import typer

from flows.cli import deploy, develop, evaluate, look, make, options, out, single
from ood_core.errors import FarfieldError

Verbs = Mapping[str, Callable[..., None]]
VERBS: Mapping[str, Verbs] = {
    "Make": {
        "demo": make.demo,
        "plan": make.plan,
        "run": make.run,
        "extend": make.extend,
        "pretrain": make.pretrain,
    },
    "Look": {
        "status": look.status,
        "inspect": look.inspect,
        "report": look.report,
        "gallery": look.gallery,
        "verify": look.verify,
    },
    "Evaluate": {"validate": evaluate.validate, "utility": evaluate.utility},
    "Hand on": {"export": out.export},
    "Single maps": {
        "replay": single.replay,
        "walk": single.walk,
        "inpaint": single.inpaint,
        "field": single.field,
        "cube": single.cube,
        "inject": single.inject,
    },
    "Deploy": {"serve": deploy.serve, "deploy": deploy.deploy, "submit": deploy.submit},
    "Develop": {"schema": develop.schema, "bench": develop.bench},
}
MODELS: Verbs = {
    "list": develop.models_list,
    "show": develop.models_show,
    "import": develop.models_import,
    "check": develop.models_check,
    "timesteps": develop.models_timesteps,
}
PASSED_ON = {"bench": {"allow_interspersed_args": False}}
"""Verbs that hand what follows their first argument to another program."""

app = typer.Typer(
    help="Mass-produce synthetic scientific maps from a few dozen real ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=options.__doc__.split("\n\n", 1)[1] if options.__doc__ else None,
)
models = typer.Typer(help="Base models on this machine.", no_args_is_help=True)
for _panel, _verbs in VERBS.items():
    for _name, _verb in _verbs.items():
        app.command(_name, rich_help_panel=_panel, context_settings=PASSED_ON.get(_name))(_verb)
for _name, _verb in MODELS.items():
    models.command(_name)(_verb)
app.add_typer(models, name="models", rich_help_panel="Develop")


@contextmanager
def guarded() -> Iterator[None]:
    """Show errors that users can correct as one message, and end with their exit code."""
    from flows.cli.console import show_error, warnings_shown

    try:
        with warnings_shown():
            yield
    except FarfieldError as error:
        show_error(str(error))
        sys.exit(options.exit_of_error(error))


def main() -> None:
    """Run the command line."""
    with guarded():
        app()


if __name__ == "__main__":
    main()
