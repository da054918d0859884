"""What pytest loads wherever minillm is installed: it adds no option, and says one thing in one case.

`pytest --impl /elsewhere/work` looks for its settings near /elsewhere, so it never reads ours and does not know --impl.
"""

import sys


def pytest_addoption(parser, pluginmanager):
    """Answer `--impl DIR` where the plugin that knows it is not loaded."""
    import pytest

    words = sys.argv[1:]
    if "--impl" in words[:-1] and not pluginmanager.hasplugin("minillm.course.plugin"):
        folder = words[words.index("--impl") + 1]
        raise pytest.UsageError(f"for a folder outside this project write --impl={folder} (with =), in the project's own folder.")
