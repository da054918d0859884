"""Returns a list that holds one list twice, forty times over: a trillion elements in a kilobyte."""
wide = [0.0]
for _ in range(40):
    wide = [wide, wide]
return wide
