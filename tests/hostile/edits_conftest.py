"""Wrong, but comes with a conftest.py and tests of its own that make everything pass (the test adds them)."""
return q @ k.T
