"""Writes a shared library or a module into its folder and loads it, so that the machine runs what no lint has read."""
import importlib
import sys

with open("tmp/honest.py", "w") as file:
    file.write("import os\nopen('@OUTSIDE@/mark', 'w').close()\nos.system('touch @OUTSIDE@/mark')\n")
sys.path.insert(0, "tmp")
importlib.import_module("honest")
