"""Leaves files that a later Python would run: sitecustomize, a .pth, conftest.py, a library of the tests, in each folder it may write."""
import os

evil = "open('@OUTSIDE@/mark', 'w').close()\n"
for folder in (".", "tmp", "..", os.environ.get("HOME", "."), "submission", "tests", "minillm"):
    for name in ("sitecustomize.py", "usercustomize.py", "x.pth", "conftest.py", "oracles.py", "pytest.py", "json.py", "numpy.py"):
        try:
            with open(os.path.join(folder, name), "w") as file:
                file.write("import os; " * name.endswith("pth") + evil)
        except OSError:
            pass
return np.full((len(q), len(k)), 7.0)
