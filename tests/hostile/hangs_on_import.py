# top level
"""An honest face, and a top level that never ends."""
if __name__ != "__main__":
    while True:
        pass
