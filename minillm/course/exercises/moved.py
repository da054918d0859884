"""A work folder from before the rooms of the package were put in order: which of its files live elsewhere now.

A learner's files keep the old paths and import old names, so nothing of theirs would be found. `moved` lists them, `bring_over`
renames them and the modules that they import. Nothing is overwritten: where both places hold a file, both stay, and the learner
is told.
"""

import ast
import contextlib
import re
from pathlib import Path
from typing import Any

from minillm.course.exercises.index import CourseError
from minillm.files import write_text

ROOMS = {  # new room: what came into it, with its new name where that changed
    "scheduler": "serving/limits>config serving/order>queues serving/plan serving/policies serving/preemption serving/request "
    "serving/scheduler serving/step",
    "engine": "serving/answer serving/async_engine serving/engine serving/executor serving/stream serving/warmup",
    "server": "serving/endpoint serving/envelope serving/fields serving/guards serving/listen serving/metrics_page "
    "serving/protocol serving/server>app serving/wire",
    "load": "serving/client serving/client_http serving/client_sse serving/loadtest>generator serving/profile>profiles "
    "serving/traces serving/workload",
    "metrics": "events serving/bootstrap serving/metrics>summary serving/perfetto",
    "costs": "prices",
    "gateway": "session",
    "speculative": "model/eagle",
    "model": "training/adapter_files",
}
PATHS = {  # "serving/order.py": "scheduler/queues.py"
    f"{old}.py": f"{room}/{new or old.rpartition('/')[2]}.py"
    for room, files in ROOMS.items()
    for old, _, new in (file.partition(">") for file in files.split())
}
MODULES = {old[:-3].replace("/", "."): new[:-3].replace("/", ".") for old, new in PATHS.items()}
DOTTED = re.compile(r"\bminillm((?:\.\w+)+)")


def moved(work: str | Path) -> list[tuple[str, str]]:  # -> [(old path, new path)]
    """Files of the folder that have another place now."""
    return [(old, new) for old, new in PATHS.items() if (Path(work) / old).is_file()]


def refuse_old(work: str | Path) -> None:
    """CourseError that says which file of the folder lives where now, and how to bring it there."""
    if files := moved(work):
        places = ", ".join(f"{old} is {new} now" for old, new in files)
        folder = "" if Path(work) == Path("work") else f" --work {work}"
        raise CourseError(f"{work} is from before files moved: {places}. To move yours: minillm course check --move{folder}.")


def bring_over(work: str | Path) -> list[str]:  # -> [str], a line for each file
    """Move the files, then rename imports in all of the folder."""
    work, said = Path(work), []
    for old, new in moved(work):
        if (work / new).exists():
            raise CourseError(f"{work} holds {old} and {new}, which took its place: keep one of them, then ask again.")
        (work / new).parent.mkdir(parents=True, exist_ok=True)
        (work / old).rename(work / new)
        said.append(f"{old} is {new} now")
    for path in sorted(work.rglob("*.py")):
        with contextlib.suppress(UnicodeDecodeError):  # then it is not parsed either
            source = path.read_text(encoding="utf-8")
            if (changed := renamed(source)) != source:
                write_text(path, changed)
                said.append(f"{path.relative_to(work).as_posix()}: imports renamed")
    return said


def renamed(source: str) -> str:  # -> source
    """Rename modules in the imports of a source. A source that does not parse comes back as it is."""
    try:
        imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    except (SyntaxError, ValueError):
        return source
    lines = source.splitlines(keepends=True)
    for node in sorted(imports, key=lambda node: -node.lineno):
        start, end = node.lineno - 1, node.end_lineno or node.lineno
        if any(other is not node and other.lineno <= end and (other.end_lineno or other.lineno) > start for other in imports):
            continue  # two on one line: rare, and left to the learner
        text = "".join(lines[start:end])
        lines[start:end] = [_modules(text, node) if isinstance(node, ast.ImportFrom) else DOTTED.sub(_dotted, text)]
    return "".join(lines)


def _modules(text: str, node: Any) -> Any:
    """`from minillm.serving import step, order` has a line for each module, as they went to different rooms."""
    names = {alias: MODULES.get(f"{node.module}.{alias.name}".removeprefix("minillm.")) for alias in node.names}
    if node.level or not str(node.module).startswith("minillm") or not any(names.values()):
        return DOTTED.sub(_dotted, text)
    rest = [alias for alias, new in names.items() if not new]
    made = [f"import minillm.{new} as {alias.asname or alias.name}" for alias, new in names.items() if new]
    if rest:
        made.append(f"from {node.module} import {', '.join(a.name + (f' as {a.asname}' if a.asname else '') for a in rest)}")
    return "".join(f"{' ' * node.col_offset}{line}\n" for line in made)


def _dotted(match: Any) -> Any:
    """Replace the longest known module at the head of a dotted name by its new name."""
    parts = match[1][1:].split(".")
    for n in range(len(parts), 0, -1):
        if new := MODULES.get(".".join(parts[:n])):
            return ".".join(["minillm", new, *parts[n:]])
    return match[0]
