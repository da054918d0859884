"""Returns an object that, when it is unpickled, writes a file."""
class Present:
    def __reduce__(self):
        return open, ("@OUTSIDE@/mark", "w")

    __array__ = lambda self, *a, **k: np.zeros((len(q), len(k)))


return Present()
