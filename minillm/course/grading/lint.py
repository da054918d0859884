"""The first barrier before a submission: what an exercise never needs is refused before it runs.

An exercise is arithmetic over arrays, or bookkeeping in plain Python. It needs no files, no processes, no network and no look
behind the interpreter's curtain; a submission that has them is sent back with the line and what to use instead. What the stub
itself contains is allowed. This is a courtesy and no wall: it tells an honest student early, in `check` too, what the grader
would refuse. Python is too rich to be made safe by reading it; jail.py does that.
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
    "savez_compressed", "DataSource", "test", "attrgetter", "methodcaller",
}  # fmt: skip
OWN_DUNDERS = {"__init__", "__main__", "__name__", "__doc__", "__post_init__", "__len__", "__iter__", "__next__", "__file__"}
LYING = {"__eq__", "__ne__", "__array__", "__array_ufunc__", "__array_function__", "__array_finalize__", "__instancecheck__",
         "__getattribute__", "__init_subclass__", "__set_name__", "__del__", "__array_priority__"}  # fmt: skip
SCOPES = (  # what has variables of its own
    ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
)
IN_C = re.compile(
    r"\b(asm|__asm__|system|popen|fork|vfork|clone|exec[lv]p?e?|fopen|freopen|open|openat|unlink|socket|connect|syscall|dlopen|"
    r"mmap|ptrace|kill|_?exit|abort|getenv|longjmp)\s*\(|#\s*include\s*[<\"](?!cuda|mma|cooperative_groups|math|stdint)|#\s*pragma\s+GCC"
)


def lint(source, stub, name):
    """List what a submitted file has and its stub has not, as lines "layers.py:12: ..."; empty where there is no objection."""
    source = source.removeprefix("\ufeff")  # Windows editors write it, and Python reads over it
    if not name.endswith(".py"):
        return _new(_in_c(source), _in_c(stub), name)
    try:
        found = _findings(ast.parse(source, name))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [f"{name}:{getattr(error, 'lineno', 0) or 0}: does not parse: {getattr(error, 'msg', error)}"]
    return _new(found, _findings(ast.parse(stub)), name)


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
    numpys = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
              if alias.name == "numpy"}  # fmt: skip
    for node in ast.walk(tree):
        what = []
        if isinstance(node, ast.Import):
            what = [_import(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            what = [_import("." * node.level + (node.module or "")), *map(_attribute, names)]
            what += [_import(f"{node.module}.{name}") for name in names if not node.level]
            what += [_file(name) for name in names if node.module == "numpy"]
        elif isinstance(node, ast.Attribute):
            of = node.value.id if isinstance(node.value, ast.Name) else ""
            what = [_attribute(node.attr), _file(node.attr) if of in numpys else None]
            what += [_import("minillm.course")] if (of, node.attr) == ("minillm", "course") else []
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            what = [_lying(node.name)]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            what = [_lying(node.id)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) > 1:
            what = ["type() with three arguments makes a class in disguise; write `class`"]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            what = [_lying(node.value) or (_attribute(node.value) if node.value.startswith("__") else None)]
            if "__global__" in node.value:
                found += [(node.lineno + line - 1, of) for line, of in _in_c(node.value)]
        found += [(node.lineno, one) for one in what if one]
    return {*found, *_builtins(tree, frozenset())}


def _builtins(node, own):
    """Find banned builtins below a node; variables and arguments of these names in a function (own) are not meant."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name) and child.id in BANNED_NAMES - own:
            yield child.lineno, f"{child.id} is not for exercises; use plain names, arrays and arithmetic"
        yield from _builtins(child, own | _variables(child) if isinstance(child, SCOPES) else own)


def _variables(scope):
    """List the arguments and variables of a function or comprehension itself, not of those within it."""
    names, outer, queue = set(), set(), list(ast.iter_child_nodes(scope))
    while queue:
        node = queue.pop()
        if isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Global):
            outer.update(node.names)
        if not isinstance(node, SCOPES | ast.ClassDef):
            queue += ast.iter_child_nodes(node)
    return names - outer


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


def _file(name):
    return f"np.{name} touches files; an exercise gets its arrays as arguments" if name in ("load", "save") else None


def _lying(name):
    return f"a class with {name} can mislead a comparison; return plain arrays and numbers" if name in LYING else None


def _in_c(source):
    return {(number, f"{hit[0].strip()} is not for a kernel; use arithmetic on its arguments")
            for number, line in enumerate(source.splitlines(), 1) if (hit := IN_C.search(line))}  # fmt: skip
