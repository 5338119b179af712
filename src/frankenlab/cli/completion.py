"""The command `completion`, which prints a script that completes commands in bash and zsh."""

import argparse
from collections.abc import Callable
from typing import Any

from frankenlab.cli.options import add_command

_SCRIPT = """\
_frankenlab() {{
    local command=${{COMP_WORDS[1]}} words=
    [[ $COMP_CWORD -eq 1 ]] && command=
    case "$command:${{COMP_WORDS[COMP_CWORD-1]}}" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o bashdefault -o default -F _frankenlab frankenlab
"""
_ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"


def add_to(commands: Any, parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the command, which writes down what the parser of all commands takes."""

    def run(options: argparse.Namespace) -> None:
        print((_ZSH if options.shell == "zsh" else "") + script(parser()), end="")

    command = add_command(
        commands,
        "completion",
        "print a script that completes commands and options in bash or zsh",
        run,
        "bash > ~/.local/share/bash-completion/completions/frankenlab",
        "zsh >> ~/.zshrc",
    )
    command.add_argument("shell", choices=("bash", "zsh"))


def script(parser: argparse.ArgumentParser) -> str:
    """Return the script: the words that may follow a command, and the values of an option."""
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    cases = [_case(":*", [*commands.choices, *_options(parser)])]
    for name, command in commands.choices.items():
        for action in command._actions:
            if action.choices:
                for option in action.option_strings:
                    cases.append(_case(f"{name}:{option}", action.choices))
        own = [c for a in command._actions if not a.option_strings for c in a.choices or ()]
        cases.append(_case(f"{name}:*", [*own, *_options(command)]))
    return _SCRIPT.format(cases="\n".join(cases))


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def _case(pattern: str, words: Any) -> str:
    return f"        {pattern}) words='{' '.join(map(str, words))}' ;;"
