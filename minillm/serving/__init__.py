"""Floor 5: many requests at once. The scheduler plans, an executor runs the plan, the engine turns results into text."""
