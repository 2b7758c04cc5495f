"""The folder is the registry: a new file in a plug-in folder is found, nothing else is edited.

A plug-in folder is a package whose `__init__.py` defines one abstract base class. Every other module in
it (names starting with `_` aside) defines one or more concrete subclasses with a `name`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any, TypeVar

from palate.errors import ConfigError, did_you_mean

T = TypeVar("T")


def modules(package: str) -> list[str]:
    """Module names in a plug-in package, without importing them."""
    pkg = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(pkg.__path__) if not m.name.startswith("_"))


def _classes(module: ModuleType, base: type[Any]) -> list[type[Any]]:
    return [
        c
        for c in vars(module).values()
        if inspect.isclass(c)
        and issubclass(c, base)
        and not inspect.isabstract(c)
        and c.__module__ == module.__name__
        and getattr(c, "name", None)
    ]


def plugins(package: str, base: type[T]) -> dict[str, type[T]]:
    """Name -> class for every concrete subclass of `base` found in `package`.

    Raises ConfigError where two files claim one name.
    """
    found: dict[str, type[T]] = {}
    for name in modules(package):
        for cls in _classes(importlib.import_module(f"{package}.{name}"), base):
            label = str(cls.name)
            if label in found and found[label] is not cls:
                raise ConfigError(
                    f"two plug-ins in {package} are named {label!r}: "
                    f"{found[label].__module__} and {cls.__module__}; rename one"
                )
            found[label] = cls
    return dict(sorted(found.items()))


def plugin(package: str, base: type[T], name: str) -> type[T]:
    """The plug-in class called `name`, or a ConfigError that lists the choices."""
    found = plugins(package, base)
    if name not in found:
        kind = package.rsplit(".", 1)[-1].rstrip("s")
        raise ConfigError(f"no {kind} is called {name!r}; {did_you_mean(name, found)}")
    return found[name]
