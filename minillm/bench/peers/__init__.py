"""Other engines and ours behind one call, each measured in a process of its own."""
