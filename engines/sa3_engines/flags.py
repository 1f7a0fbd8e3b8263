"""The parser that every command's flags are read with: what is wrong with them is one sentence, not the whole usage.

Apart from `console`, since a command is to answer Ctrl-C before its flags are read.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from sa3_engines import console
from sa3_engines.errors import InvalidRequest

NUMBERS = {int: "a whole number", float: "a number"}
REQUIRED = "the following arguments are required: "


class Parser(argparse.ArgumentParser):
    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]: an overload for every order
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Here, and not in `parse_args`, what is not known is refused, for a command's own parser is asked this."""
        given = [str(word) for word in (sys.argv[1:] if args is None else args)]
        if "-h" not in given and "--help" not in given:
            self._refuse_flags(given)
        found, left = super().parse_known_args(args, namespace)
        if left:
            self.error(self._unknown(left[0]) if left[0].startswith("-") else f"unexpected argument {left[0]!r}")
        return found, left

    def error(self, message: str) -> NoReturn:
        if message.startswith(REQUIRED):
            message = f"missing: {message.removeprefix(REQUIRED)}"
        see = " See" if message.endswith("?") else "; see"
        console.say(self.prog, f"{message}{see} {self.prog} --help")
        sys.exit(InvalidRequest.exit_code)

    def _refuse_flags(self, given: Sequence[str]) -> None:
        """Before anything else: that a prompt is missing tells nothing to whoever wrote --promt."""
        own = self._subparsers is None  # else what follows the command's name is the command's
        for word in given:
            if word == "--" or not (own or word.startswith("-")):
                return
            name = word.partition("=")[0]
            if not name.startswith("--") or " " in name or name in self._option_string_actions:
                continue
            if not (self.allow_abbrev and any(flag.startswith(name) for flag in self._option_string_actions)):
                self.error(self._unknown(word))

    def _unknown(self, word: str) -> str:
        name = word.partition("=")[0]
        where = "; a command's flags come after its name" if self._subparsers is not None else ""
        return f"unknown flag {name}{_closest(name, self._option_string_actions) or where}"

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as e:
            for kind, wanted in NUMBERS.items():
                if action.type is kind:
                    raise argparse.ArgumentError(action, f"{arg_string!r} is not {wanted}") from e
            raise

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = action.choices
        if choices is None or value in choices:
            return
        known = [str(choice) for choice in choices]
        others = _closest(str(value), known) or f"; choose from {', '.join(known)}"
        if action.nargs == argparse.PARSER:
            raise argparse.ArgumentError(None, f"no command {value!r}{others}")
        raise argparse.ArgumentError(action, f"no choice {str(value)!r}{others}")


class Version(argparse.Action):
    """Looks it up when it is asked for, since `importlib.metadata` takes longer than all the flags."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib import metadata

        console.out(f"sa3-runtime {metadata.version('sa3-runtime')}")
        sys.exit(0)


def _closest(word: str, known: Iterable[str]) -> str:
    bare = {one.lstrip("-"): one for one in known if not one.startswith("-") or one.startswith("--")}
    start = word.lstrip("-").lower()
    near = [one for one in bare if start and one.startswith(start)] or difflib.get_close_matches(start, bare, n=1)
    return f"; did you mean {bare[near[0]]}?" if near else ""
