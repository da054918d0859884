"""Goes column by column: all of A for each column."""
order = [(i, j) for j in range(columns) for i in range(rows)]
