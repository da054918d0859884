"""Returns a dictionary whose keys are never found again, in a tuple of sets."""
return ({float("nan"): 1, float("nan"): 2}, frozenset([float("nan")] * 3), {(): [()]})
