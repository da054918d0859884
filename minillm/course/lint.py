"""The first barrier before a submission: what an exercise never needs is refused before it runs.

An exercise is arithmetic over arrays, or bookkeeping in plain Python. It needs no files, no processes, no network and no look
behind the interpreter's curtain; a submission that has them is sent back with the line and what to use instead. What the stub
itself contains is allowed. This is a barrier and not a sandbox: Python is too rich to be made safe by reading it.
"""

import ast
import re
from collections import Counter

ALLOWED = {
    "numpy", "math", "typing", "dataclasses", "numba", "collections", "itertools", "functools", "heapq", "bisect", "enum", "abc",
    "operator", "cupy", "minillm", "__future__",
}  # fmt: skip
BANNED_IMPORTS = ("minillm.course", "numpy.ctypeslib", "numpy.f2py", "numpy.distutils", "numpy.testing", "numba.core", "numba.np")
BANNED_NAMES = {
    "eval", "exec", "compile", "open", "__import__", "globals", "locals", "vars", "getattr", "setattr", "delattr", "breakpoint",
    "input", "exit", "quit", "help", "memoryview", "__builtins__", "__loader__", "__spec__",
}  # fmt: skip
BANNED_ATTRIBUTES = {
    "os", "sys", "_os", "_sys", "subprocess", "socket", "builtins", "inspect", "importlib", "ctypes", "ctypeslib", "modules",
    "gc", "f_globals", "f_locals", "f_back", "f_builtins", "gi_frame", "cr_frame", "tb_frame", "tb_next", "objmode",
    "ExternalFunction", "fromfile", "tofile", "memmap", "genfromtxt", "loadtxt", "savetxt", "savez",
    "savez_compressed", "DataSource", "test",
}  # fmt: skip
OWN_DUNDERS = {"__init__", "__name__", "__doc__", "__post_init__", "__len__", "__iter__", "__next__", "__file__"}
LYING = {"__eq__", "__ne__", "__array__", "__array_ufunc__", "__array_function__", "__array_finalize__", "__instancecheck__",
         "__getattribute__", "__init_subclass__", "__set_name__", "__del__", "__array_priority__"}  # fmt: skip
IN_C = re.compile(
    r"\b(asm|__asm__|system|popen|fork|vfork|clone|exec[lv]p?e?|fopen|freopen|open|openat|unlink|socket|connect|syscall|dlopen|"
    r"mmap|ptrace|kill|_?exit|abort|getenv|longjmp)\s*\(|#\s*include\s*[<\"](?!cuda|mma|cooperative_groups|math|stdint)|#\s*pragma\s+GCC"
)


def lint(source, stub, name):
    """What a submitted file has and its stub has not, as lines "layers.py:12: ..."; empty if there is nothing to object to."""
    if not name.endswith(".py"):
        return _new(_in_c(source), _in_c(stub), name)
    try:
        tree = ast.parse(source, name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [f"{name}:{getattr(error, 'lineno', 0) or 0}: does not parse: {getattr(error, 'msg', error)}"]
    return _new(_findings(tree), _findings(ast.parse(stub)), name)


def _new(found, known, name):
    spare = Counter(what for _, what in known)
    lines = []
    for line, what in sorted(found):
        if spare[what]:
            spare[what] -= 1
        else:
            lines.append(f"{name}:{line}: {what}")
    return lines


def _findings(tree):
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, _import(alias.name)) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, _import("." * node.level + (node.module or ""))))
            found += [(node.lineno, _import(f"{node.module}.{alias.name}")) for alias in node.names if not node.level]
            found += [(node.lineno, _attribute(alias.name)) for alias in node.names]
        elif isinstance(node, ast.Name) and node.id in BANNED_NAMES:
            found.append((node.lineno, f"{node.id} is not for exercises; use plain names, arrays and arithmetic"))
        elif isinstance(node, ast.Attribute):
            found.append((node.lineno, _attribute(node.attr)))
            if node.attr in ("load", "save") and isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy"):
                found.append((node.lineno, f"np.{node.attr} touches files; an exercise gets its arrays as arguments"))
        elif isinstance(node, ast.FunctionDef) and node.name in LYING:
            found.append((node.lineno, f"a class with {node.name} can mislead a comparison; return plain arrays and numbers"))
        elif isinstance(node, ast.Constant) and "__global__" in str(node.value):
            found += [(node.lineno + line - 1, what) for line, what in _in_c(node.value)]
    return {(line, what) for line, what in found if what}


def _import(name):
    top = name.split(".")[0]
    refused = top not in ALLOWED or name.startswith(BANNED_IMPORTS)
    if name.startswith("."):
        refused = "course" in name.split(".")
    return f"import of {name}: an exercise needs numpy, math, numba and the reference's own imports at most" if refused else None


def _attribute(name):
    if name in BANNED_ATTRIBUTES:
        return f".{name} reaches outside the exercise; use numpy's arithmetic"
    if name.startswith("__") and name.endswith("__") and name not in OWN_DUNDERS:
        return f".{name} looks behind the language; call the function or operator it stands for"
    return None


def _in_c(source):
    return {(number, f"{hit[0].strip()} is not for a kernel; use arithmetic on its arguments")
            for number, line in enumerate(source.splitlines(), 1) if (hit := IN_C.search(line))}  # fmt: skip
