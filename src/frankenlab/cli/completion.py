"""The command `completion`, which prints a script that completes commands in bash, zsh and fish."""

import argparse
import shlex
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
        if options.shell == "fish":
            print(fish_script(parser()), end="")
        else:
            print((_ZSH if options.shell == "zsh" else "") + script(parser()), end="")

    command = add_command(
        commands,
        "completion",
        "print a script that completes commands and options in bash, zsh or fish",
        run,
        "bash > ~/.local/share/bash-completion/completions/frankenlab",
        "zsh >> ~/.zshrc",
        "fish > ~/.config/fish/completions/frankenlab.fish",
    )
    command.add_argument("shell", choices=("bash", "zsh", "fish"))


def script(parser: argparse.ArgumentParser) -> str:
    """Return the script for bash and zsh: the words that may follow a command, and the values of an
    option."""
    commands = _commands(parser)
    cases = [_case(":*", [*commands, *_options(parser)])]
    for name, command in commands.items():
        for action in command._actions:
            if action.choices:
                for option in action.option_strings:
                    cases.append(_case(f"{name}:{option}", action.choices))
        own = [c for a in command._actions if not a.option_strings for c in a.choices or ()]
        cases.append(_case(f"{name}:*", [*own, *_options(command)]))
    return _SCRIPT.format(cases="\n".join(cases))


def fish_script(parser: argparse.ArgumentParser) -> str:
    """Return the script for fish, which shows what each word means, too."""
    lines = _fish_options("__fish_use_subcommand", parser)
    summaries = {choice.dest: choice.help for choice in _subparsers(parser)._choices_actions}
    for name in _commands(parser):
        words = f"-f -a {name} -d {shlex.quote(summaries[name] or '')}"
        lines.append(f"complete -c frankenlab -n __fish_use_subcommand {words}")
    for name, command in _commands(parser).items():
        lines += _fish_options(f"'__fish_seen_subcommand_from {name}'", command)
    return "\n".join(lines) + "\n"


def _fish_options(condition: str, parser: argparse.ArgumentParser) -> list[str]:
    """Return a line for each option and each word that may stand where a condition holds."""
    lines = []
    for action in parser._actions:
        names = [
            f"-{'l' if text[:2] == '--' else 's'} {text.lstrip('-')}"
            for text in action.option_strings
        ]
        values = [f"-a {shlex.quote(' '.join(map(str, action.choices)))}"] if action.choices else []
        kinds = ["-x" if values else "-r"] if names and action.nargs != 0 else ["-f"]
        if names or (values and not isinstance(action, argparse._SubParsersAction)):
            about = [f"-d {shlex.quote(action.help)}"] if action.help else []
            parts = [*names, *kinds, *values, *about]
            lines.append(f"complete -c frankenlab -n {condition} {' '.join(parts)}")
    return lines


def _subparsers(parser: argparse.ArgumentParser) -> Any:
    return next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands by their names."""
    return dict(_subparsers(parser).choices)


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def _case(pattern: str, words: Any) -> str:
    return f"        {pattern}) words='{' '.join(map(str, words))}' ;;"
