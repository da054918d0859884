"""Keeps the largest weight exact, and fits nothing."""
at = np.abs(q).argmax(axis=0)[None]
largest, code = np.take_along_axis(x, at, axis=0)[0], np.take_along_axis(q, at, axis=0)[0]
scale = np.divide(largest, code, out=np.zeros_like(largest), where=code != 0)
