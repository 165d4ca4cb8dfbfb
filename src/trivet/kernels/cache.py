"""Generated modules: written to the user's cache folder under a name that says all they depend on, then imported.

Numba keys its own cache by file, name and bytecode, so a function made anew for each rule would load another rule's
machine code. One file per rule, named by a hash of everything that decides the code, cannot be mistaken for another.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib.util
import os
import shutil
import stat
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from types import ModuleType

PREFIX = "trivet_kernel_"
_LOCK = threading.RLock()


@functools.cache
def folder() -> Path:
    """Return the folder of generated modules: `$TRIVET_CACHE`, else `trivet` in the user's cache folder.

    What lies there is executed, so it must belong to this user and be closed to all others; otherwise a fresh
    folder serves this process alone.
    """
    wanted = os.environ.get("TRIVET_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(wanted) if wanted else Path(base) / "trivet"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = _distrust(path)
    except OSError as error:
        problem = error.strerror or str(error)
    if not problem:
        return path
    temporary = Path(tempfile.mkdtemp(prefix="trivet-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    warnings.warn(
        f"kernels are compiled anew in this process: the cache folder {path} {problem}. "
        f"Make it yours alone (chmod 700), or set TRIVET_CACHE to another folder.",
        stacklevel=2,
    )
    return temporary


def _distrust(path: Path) -> str:
    """Return why code in this folder must not be executed, or an empty string."""
    if not hasattr(os, "getuid"):  # Windows keeps other users out of a profile by itself
        return ""
    found = path.stat()
    if found.st_uid != os.getuid():
        return "belongs to another user"
    if stat.S_IMODE(found.st_mode) & 0o022:
        return "can be written by other users"
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)
    return "" if os.access(path, os.W_OK) else "cannot be written"


def module(source: str, depends_on: str) -> ModuleType:
    """Return the module with this source, written and imported at its first use.

    `depends_on` is whatever else decides the machine code (the source of `xp`, the versions of the compilers).
    """
    digest = hashlib.sha256(f"{source}\0{depends_on}\0{sys.version}".encode()).hexdigest()[:24]
    name = PREFIX + digest
    with _LOCK:
        if name in sys.modules:
            return sys.modules[name]
        path = folder() / f"{name}.py"
        if not path.exists() or path.read_text(encoding="utf-8") != source:
            _write(path, source)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        # Numba and pickle look a function's module up by name.
        sys.modules[name] = made
        try:
            spec.loader.exec_module(made)
        except BaseException:
            del sys.modules[name]
            raise
        return made


def _write(path: Path, source: str) -> None:
    """Write whole or not at all: two processes may write the same module at once."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-", suffix=".py")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(source)
    os.replace(temporary, path)
