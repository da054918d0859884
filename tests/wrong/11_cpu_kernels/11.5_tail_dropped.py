"""Rounds the tiles down: those at the edge are left out."""
return m * k * (n // columns) + k * n * (m // rows) + m * n
