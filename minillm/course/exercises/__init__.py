"""Exercises cut out of the solved package: regions, index, stubs, the learner's commands, and what pytest adds."""
