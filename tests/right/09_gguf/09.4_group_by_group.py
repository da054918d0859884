"""Goes group by group, in integers."""
p = packed.astype(int)
scale, minimum = np.zeros((len(p), 8), np.uint8), np.zeros((len(p), 8), np.uint8)
for g in range(4):
    scale[:, g], minimum[:, g] = p[:, g] % 64, p[:, g + 4] % 64
    scale[:, g + 4] = p[:, g + 8] % 16 + p[:, g] // 64 * 16
    minimum[:, g + 4] = p[:, g + 8] // 16 + p[:, g + 4] // 64 * 16
