"""Returns a list that holds itself, and a dictionary that does."""
ring = {}
ring["self"] = [ring, ring]
ring["list"] = ring["self"]
return ring
