"""Lets NumPy add and divide; its numbers are floats too."""
import numpy as np

hits, lengths = np.array(found), np.array(prompts)
return float(hits.sum() / lengths.sum()), float(np.mean(hits / lengths)), float(np.mean(hits > 0))
