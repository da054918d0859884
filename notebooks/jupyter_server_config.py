"""Read by Jupyter when it is started in this folder: it serves the whole project, so that links to lessons work here too."""

from pathlib import Path

c.ServerApp.root_dir = str(Path(__file__).resolve().parents[1])  # noqa: F821  (Jupyter provides c)
c.LabApp.default_url = "/lab/tree/notebooks"  # noqa: F821
