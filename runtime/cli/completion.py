"""`completion`: what a shell needs to complete this command line."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from perdure.runtime.cli import out
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.options import AsJson

Shell = Literal["bash", "zsh", "fish"]


def completion(shell: Annotated[Shell, Parameter(help="The shell.")], /, *, json: AsJson = False) -> int:
    """Print a script by which a shell completes commands and options.

    In ~/.bashrc (or ~/.zshrc, with zsh) stands the line below; fish takes it as ~/.config/fish/completions/perdure.fish.

    For example:

        source <(perdure completion bash)

    JSON: shell, script.
    """
    from perdure.runtime.cli.app import app

    script = app.generate_completion(shell=shell)
    if json:
        out.document({"shell": shell, "script": script})
    else:
        out.line(script)
    return Exit.DONE
