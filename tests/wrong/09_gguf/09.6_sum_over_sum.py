"""Divides the sum of x by the sum of q: signed numbers cancel."""
scale = np.nan_to_num((weight * x).sum(axis=0) / (weight * q).sum(axis=0), posinf=0, neginf=0)
