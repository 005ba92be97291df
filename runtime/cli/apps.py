"""Loading an App, or a function, by the name `module:name`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

from perdure.backends.errors import Misuse
from perdure.runtime.app import App
from perdure.runtime.cli.exits import AppFailed


def load_app(name: str) -> App:
    """The App that *name* leads to, looked for in the current folder first. Its module is imported, nothing of it is run.

    Raises:
      Misuse: there is no such module, or no App of that name in it.
      AppFailed: the module raised.
    """
    module, found = _load(name, "--app")
    if not isinstance(found, App):
        raise Misuse(f"--app {name!r} is a {type(found).__name__}, not an App{_apps_of(module)}")
    return found


def load_function(name: str) -> Any:
    """The function that *name* leads to, likewise.

    Raises:
      Misuse: there is no such module, or no function of that name in it.
      AppFailed: the module raised.
    """
    _, found = _load(name, "the function")
    if not callable(found):
        raise Misuse(f"{name!r} is a {type(found).__name__}, not a function")
    return found


def _load(name: str, option: str) -> tuple[object, object]:
    """The module and what it has under that name."""
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise Misuse(f"{option} {name!r}: write module:name, as in shop:app")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    _let_siblings_in(module_name, folder)
    found: object = _import(module_name, folder)
    module = sys.modules[module_name]
    if getattr(module, "__file__", None) is None and (folders := list(getattr(module, "__path__", ()))):
        raise Misuse(f"there is no module {module_name!r}, only a folder of that name: {folders[0]}")
    for part in path.split("."):
        if not hasattr(found, part):
            raise Misuse(f"{option} {name!r}: module {module_name!r} has no {path!r}{_apps_of(module)}")
        found = getattr(found, part)
    return module, found


def _let_siblings_in(name: str, folder: str) -> None:
    """A module in a folder that is no package (`examples.flights`) finds what stands beside it last of all, as a script would find it first."""
    *parents, _ = name.split(".")
    beside = os.path.join(folder, *parents)
    if parents and os.path.isdir(beside) and not os.path.exists(os.path.join(beside, "__init__.py")) and beside not in sys.path:
        sys.path.append(beside)


def _import(name: str, folder: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise Misuse(f"there is no module {name!r}: looked in {folder} and where Python looks") from error
        raise AppFailed(f"module {name!r} cannot be imported: {error}{_where(error)}") from error
    except SystemExit as error:
        raise AppFailed(f"module {name!r} cannot be imported: it ends the program, by sys.exit({error.code!r}){_where(error)}") from error
    except Exception as error:
        raise AppFailed(f"module {name!r} cannot be imported: {type(error).__name__}: {error}{_where(error)}") from error


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""


def _apps_of(module: object) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, App)]
    return f"; it has: {', '.join(names)}" if names else ""
