"""Returns an array of records, of dates and of objects under one name."""
record = np.zeros((len(q), len(k)), dtype=[("x", "O"), ("y", "f4")])
record["x"] = q
return record
