"""The user's file as a module, with those that it imports from beside itself.

They are loaded from the very bytes whose digests the spec holds, under names that no other module
has: `own_<digest>.network`. An absolute import in them, such as `import blocks`, means the module
beside, wherever one was found; so no path is added to Python's, and no module is shadowed.
"""

from __future__ import annotations

import builtins
import hashlib
import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from warnings import WarningMessage

from torch import enable_grad, nn
from torch.random import fork_rng

from job.distributed.device import device_fault
from job.errors import Fault, InputError
from job.spec import PythonFile
from job.spec.own_code import NOT_BESIDE, modules, pinned

OWN = "own_"
"""How the names of packages begin that hold files of one's own."""
FRAME = re.compile(r'File "(.+)", line (\d+)')


class _Finder(MetaPathFinder, Loader):
    """Finds and loads modules from a folder, under the name of a package."""

    def __init__(self, package: str, folder: Path, digests: Mapping[str, str]) -> None:
        self.package, self.folder, self.digests = package, folder, digests
        self.files = modules(digests)
        self.beside = {name.partition(".")[0] for name in self.files} - NOT_BESIDE

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module of the package is."""
        if fullname == self.package:
            return ModuleSpec(fullname, None, is_package=True)
        if not fullname.startswith(f"{self.package}."):
            return None
        name = fullname.removeprefix(f"{self.package}.")
        if file := self.files.get(name):
            place, package = str(self.folder / file), file.endswith("/__init__.py")
            found = ModuleSpec(fullname, self, origin=place, is_package=package)
            found.has_location = True
            return found
        if any(other.startswith(f"{name}.") for other in self.files):
            return ModuleSpec(fullname, None, is_package=True)
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run the file of a module. Raises InputError if it has changed since it was hashed."""
        assert module.__file__ is not None
        source, name = Path(module.__file__).read_bytes(), self._name(module.__file__)
        if hashlib.sha256(source).hexdigest() != self.digests[name]:
            rule = "its SHA-256 is not what it was when the spec was read"
            raise InputError([Fault(name, "another file", rule, "start again")])
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        code = compile(source, module.__file__, "exec", dont_inherit=True)
        exec(code, vars(module))  # noqa: S102 - the user's own file, which the spec names

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` of the user's modules."""
        top = name.partition(".")[0]
        if level or top not in self.beside:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if fromlist:
            return builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist)
        import_module(f"{self.package}.{name}")
        return sys.modules[f"{self.package}.{top}"]

    def _name(self, file: str) -> str:
        return Path(file).relative_to(self.folder).as_posix()


class OwnCode:
    """A file of one's own, loaded. Its faults become one line with the user's file and line."""

    def __init__(self, section: PythonFile, folder: Path, where: str) -> None:
        """Load it. Raises InputError.

        folder: of the spec. where: the section's JSON path.
        """
        section = pinned(section, folder, where)
        file = Path(os.path.abspath(folder / section.file))
        self.folder, self.file, self.digests = file.parent, file.name, section.sha256
        content = json.dumps([str(self.folder), sorted(self.digests.items())])
        package = f"{OWN}{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        if not any(isinstance(each, _Finder) and each.package == package for each in sys.meta_path):
            sys.meta_path.append(_Finder(package, self.folder, self.digests))
        (name,) = (name for name, of in modules(self.digests).items() if of == self.file)
        self.module = f"{package}.{name}"
        # What it draws and sets up must not depend on whether this process has loaded it before.
        blamed = self.blamed("the file must load")
        with blamed, beside_output(), fork_rng(devices=[]), enable_grad():
            import_module(self.module)

    def function(self, name: str) -> Callable[..., Any]:
        """A function of the file. Raises InputError."""
        made = getattr(sys.modules[self.module], name, None)
        if not callable(made):
            what = "no function" if made is None else f"{type(made).__name__}"
            rule, remedy = f"the file must define {name}", "define it, or correct its name"
            raise InputError([Fault(self.file, f"{what} {name}", rule, remedy)])
        return made  # type: ignore[no-any-return]

    @contextmanager
    def blamed(
        self, rule: str, function: object = None, seen: Sequence[WarningMessage] = ()
    ) -> Iterator[None]:
        """What fails inside becomes an InputError, whose cause it is.

        Errors of the device pass. function: what is called, in case no line of the user's ran.
        seen: warnings, in which torch says what part of the forward a backward failed at.
        """
        try:
            yield
        except (Exception, SystemExit) as error:
            if isinstance(error, InputError) or device_fault(error):
                raise
            where = self._line_of(error) or self._line_in(seen) or self.place(function)
            raise InputError([_fault(where, error, rule)]) from error

    def place(self, function: object) -> str:
        """`network.py:12`: where a function, a method or a module's forward is defined."""
        inner = inspect.unwrap(function) if callable(function) else function
        if isinstance(inner, nn.Module):
            inner = type(inner).forward
        elif isinstance(inner, type):
            inner = vars(inner).get("__init__")
        code = getattr(inner, "__code__", None)
        name = None if code is None else self._own(code.co_filename)
        return self.file if code is None or name is None else f"{name}:{code.co_firstlineno}"

    def _line_of(self, error: BaseException) -> str | None:
        """The last of the user's lines that ran."""
        lines = [
            (frame.f_code.co_filename, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
        ]
        if isinstance(error, SyntaxError) and error.filename:
            lines.append((error.filename, error.lineno or 1))
        named = [(self._own(file), line) for file, line in lines]
        return next((f"{name}:{line}" for name, line in reversed(named) if name), None)

    def _line_in(self, seen: Sequence[WarningMessage]) -> str | None:
        """The last of the user's lines in a traceback that a warning holds."""
        text = "\n".join(str(each.message) for each in seen)
        named = [(self._own(file), line) for file, line in FRAME.findall(text)]
        return next((f"{name}:{line}" for name, line in reversed(named) if name), None)

    def _own(self, file: str) -> str | None:
        """The name of a file of the user's, by its path."""
        path = Path(file)
        name = path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else ""
        return name if name in self.digests else None


def beside_output() -> redirect_stdout[Any]:
    """Within it, what is printed goes to stderr: stdout is the command's, and may be JSON."""
    return redirect_stdout(sys.stderr)


def forget_loaded() -> None:
    """Forget the files that are loaded: who needs them loads them anew, as another process does."""
    for name in [name for name in sys.modules if name.startswith(OWN)]:
        del sys.modules[name]


def _fault(where: str, error: BaseException, rule: str) -> Fault:
    lines = str(error).strip().splitlines() or [""]
    found = f"{type(error).__name__}: {lines[0]}"
    remedy = "correct it; `job validate --traceback` prints the whole error"
    if isinstance(error, ModuleNotFoundError):
        remedy = "install what requirements.txt names, or put the module beside the file"
    elif isinstance(error, RuntimeError) and ("inplace" in found or "in-place" in found):
        found = found.partition(". ")[0]  # the rest is advice, which is given below
        rule = "z, which all tasks read, and what a backward needs must not be changed in place"
        remedy = "use operations that return a new tensor, such as relu(z), not relu_(z)"
    return Fault(where, found, rule, remedy)
