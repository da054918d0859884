"""Importing this reads the index of exercises: a fork server does it once, before its children ask (warm.py)."""

from minillm.course.exercises.index import Course

Course().exercises  # noqa: B018  (what it parses is kept by what the files hold)
