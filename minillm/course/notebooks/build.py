"""From `notebooks/NN_name.py` to a notebook with outputs and pictures: the same source gives the same bytes.

The source is a plain Python file whose cells begin with `# %%` (py:percent), so it can be read, diffed and run without
Jupyter. The notebook is built from it and keeps a hash of it, so that a test sees when one was changed without the other.
Everything that varies between builds is left out: times of execution, random ids, versions, dates in pictures.

    # %% [markdown]              text
    # %%                         code; its outputs must be equal in every build
    # %% tags=["timing"]         code that measures: its outputs may differ
    # %% tags=["skip-execution"] code for a reader to run (sliders): built without outputs
    # %% tags=["drawing"]        code that only draws: folded in Jupyter, its picture shown

    minillm course notebooks [NN ...] [--check]
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from minillm.course.notebooks.contract import DRAWING, SKIP, NotebookError, differences, pictures, problems, source_hash
from minillm.course.notebooks.phone import stacked
from minillm.errors import did_you_mean
from minillm.files import replacing, write_text

FOLDER = Path(__file__).parents[3] / "notebooks"
RATES = ("read_bytes_per_s", "flops_per_s", "kernel_flops_per_s")
CELL_LIMIT_S = 300  # the first time, kernels compile in it
SETUP = """%matplotlib inline
%config InlineBackend.figure_formats = ['png']
%config InlineBackend.print_figure_kwargs = {'dpi': 80, 'bbox_inches': 'tight', 'metadata': {'Software': None}}"""


def build(source, strict=False):  # path of a .py -> notebook, executed
    """Run every cell of a source in a kernel of this Python. NotebookError names the cell that fails.

    strict: a title about times that the data refute, or a point beyond its bound, fails it; one about counts always does.
    """
    try:
        import jupytext
        import nbformat
    except ImportError as error:
        raise NotebookError(f"{error.name} is not installed: pip install 'minillm-course[notebooks]'") from None
    text = source.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SETUP))
    execute(notebook, source, strict)
    notebook.cells.pop(0)
    for index, cell in enumerate(notebook.cells):
        cell.id = hashlib.sha256(f"{source.stem} {index}".encode()).hexdigest()[:8]
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if DRAWING in (tags or ()):
            cell.metadata["jupyter"] = {"source_hidden": True}
    number_cells(notebook)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "minillm": {"source_sha256": source_hash(text)},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return nbformat.from_dict(notebook)


def execute(notebook, source, strict):
    """Run a notebook in place. The kernel is this Python, whatever kernels are installed, and reads no user's configuration."""
    import matplotlib
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    begun = []  # indices of cells
    with tempfile.TemporaryDirectory() as configuration:
        env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | {
            "MINILLM_NOTICE": "off",  # whether kernels had to be compiled depends on the machine
            "MINILLM_PLOTS": "strict" if strict else "quiet",
            "MINILLM_MACHINE": str(machine_file(source.parent)),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")])),
            "PYTHONHASHSEED": "0",
            "IPYTHONDIR": configuration,
            "MATPLOTLIBRC": str(Path(matplotlib.get_data_path()) / "matplotlibrc"),
            "COLUMNS": "100",
        }
        options = {"timeout": CELL_LIMIT_S, "record_timing": False, "shutdown_kernel": "immediate", "skip_cells_with_tag": SKIP}
        options["resources"] = {"metadata": {"path": str(source.parent)}}
        options["extra_arguments"] = ["--log-level=ERROR"]  # what a kernel says about its sockets is not for authors
        options["on_cell_execute"] = lambda cell, cell_index: begun.append(cell_index)
        try:
            NotebookClient(notebook, km=manager, **options).execute(env=env, cleanup_kc=True)
        except CellExecutionError as error:
            raise NotebookError(f"{source.name}: {name_of(notebook, begun[-1])}: {error.ename}: {error.evalue}") from None
        except CellTimeoutError:
            raise NotebookError(f"{source.name}: {name_of(notebook, begun[-1])} took more than {CELL_LIMIT_S} s.") from None
        except DeadKernelError:
            raise NotebookError(f"{source.name}: {name_of(notebook, begun[-1])} ended the kernel.") from None
        except RuntimeError as error:
            raise NotebookError(f"{source.name}: the kernel did not start: {error}") from None


def machine_file(folder):
    return folder / "machine.json"


def same_machine(folder, names):  # folder of sources, names that were asked for
    """Measure the machine once for all notebooks, so that a percentage of a ceiling means the same in each.

    What was kept is taken, or the better of both. Where now differs by more than a tenth, all have to be built anew.
    """
    from minillm.bench.machine import Machine, measure_machine

    path, now = machine_file(folder), measure_machine(kernels=True)
    if path.exists() and names:
        kept = Machine(**json.loads(path.read_text()))
        new = kept.better(now)
        grown = [name for name in RATES if getattr(new, name) > 1.1 * getattr(kept, name)]
        if kept.cpu != now.cpu or kept.cores != now.cores or grown:
            what = f"{', '.join(grown)} grew by more than a tenth" if grown else f"it was {kept.cores} cores of {kept.cpu}"
            raise NotebookError(f"{path.name} is of another machine: {what}. Build all notebooks: minillm course notebooks")
    else:
        new = now.better(measure_machine(kernels=True))
    write_text(path, json.dumps(new.json(), indent=1) + "\n")


def name_of(notebook, index):  # -> text; the set-up cell is number 0, so cells count from 1
    return f"cell {index} ({notebook.cells[index].source.strip().partition(chr(10))[0][:60]})"


def number_cells(notebook):
    """Execution counts from 1, and neighbouring pieces of a stream joined: how it arrived in pieces is chance."""
    count = 0
    for cell in (c for c in notebook.cells if c.cell_type == "code"):
        if SKIP in cell.metadata.get("tags", []):
            continue
        count += 1
        cell.execution_count = count
        joined = []
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            if joined and output.output_type == "stream" == joined[-1].output_type and output.name == joined[-1].name:
                joined[-1].text += output.text
            else:
                joined.append(output)
        cell.outputs = joined


def write(notebook, path):
    """Write a notebook, whole or not at all, and its pictures for the lesson: lessons/pictures/NN_1.png and so on, for phones."""
    import nbformat

    write_text(path, nbformat.writes(notebook).rstrip("\n") + "\n")
    folder = path.parents[1] / "lessons" / "pictures"
    if folder.parent.is_dir():
        folder.mkdir(exist_ok=True)
        for old in folder.glob(f"{path.stem[:2]}_*.png"):
            old.unlink()
        for number, picture in enumerate(pictures(notebook), 1):
            with replacing(folder / f"{path.stem[:2]}_{number}.png") as file:
                file.write(stacked(picture.png, len(picture.panels)))


def sources(names, folder):  # ["02", ...] -> [path]
    """List the sources of the given names, all of them for no names."""
    found = sorted(folder.glob("[0-9][0-9]_*.py"))
    for name in names:
        if not any(name in (path.stem, path.stem[:2]) for path in found):
            raise NotebookError(f"no notebook {name!r} in {folder}; {did_you_mean(name, [p.stem for p in found])}")
    return [path for path in found if not names or path.stem in names or path.stem[:2] in names]


def main(argv=None):  # -> exit status
    """Build notebooks from their sources; with --check build them in memory and say what differs from the ones that are there."""
    parser = argparse.ArgumentParser(prog="python -m minillm.course.notebooks.build", description="Build notebooks from sources.")
    configure(parser)
    return run(parser.parse_args(argv))


def configure(parser):
    parser.add_argument("names", nargs="*", metavar="NN", help="lessons, such as 01 02 (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a build differs from the file")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=argparse.SUPPRESS)


def run(args):  # -> exit status
    bad, chosen = 0, sources(args.names, args.folder)
    if not args.check and any("kept_machine" in source.read_text(encoding="utf-8") for source in chosen):
        same_machine(args.folder, args.names)
    for source in chosen:
        start, target = time.perf_counter(), source.with_suffix(".ipynb")
        notebook = build(source, strict=not args.check)
        found = problems(notebook, source.read_text(encoding="utf-8"))
        if args.check:
            found += compare_with_file(notebook, target)
        elif not found:
            write(notebook, target)
        seconds = time.perf_counter() - start
        said = "as the file" if args.check else target.name
        print(f"{source.name}: {'; '.join(found) if found else said} ({seconds:.0f} s)")
        bad += bool(found)
    return 1 if bad else 0


def compare_with_file(notebook, target):  # -> [text]
    import nbformat

    if not target.is_file():
        return [f"{target.name} does not exist"]
    return differences(notebook, nbformat.read(target, as_version=4))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NotebookError as error:
        print(f"minillm: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
