"""Goes row by row: all of B for each row."""
order = [(i, j) for i in range(rows) for j in range(columns)]
