"""Training: gradients by hand, AdamW, a corpus that is mapped, checkpoints that a kill cannot harm. Lesson 16."""
