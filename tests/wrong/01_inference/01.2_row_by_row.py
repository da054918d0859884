"""Collects turned rows in a list: of no rows NumPy makes float64."""
rows, half = [], x.shape[-1] // 2
first = np.s_[..., 0::2] if interleaved else np.s_[..., :half]
second = np.s_[..., 1::2] if interleaved else np.s_[..., half:]
for t in range(len(x)):
    row = np.empty_like(x[t])
    row[first] = x[t][first] * cos[t] - x[t][second] * sin[t]
    row[second] = x[t][first] * sin[t] + x[t][second] * cos[t]
    rows.append(row)
return np.array(rows).reshape(x.shape)
