"""The same scores as text, as our JSON, as Gradescope's results.json and as Classroom 50's result.json."""

import json
from dataclasses import asdict

from minillm.files import write_text


def lines(scores):
    """Format one line a test, and the total."""
    text = []
    for score in scores.tests:
        words = score.message.splitlines()[0] if score.message else "passed"
        text.append(f"{score.exercise:6} {score.earned:>3g} of {score.points:<3g} {score.test.split('::')[1]}: {words}")
    text += [f"note: {note}" for note in scores.notes]
    return [*text, f"{'score':6} {scores.earned:>3g} of {scores.points:g}"]


def ours(scores):
    return {"earned": scores.earned, "points": scores.points, "notes": scores.notes, "tests": [asdict(s) for s in scores.tests]}


def gradescope(scores):
    """Make Gradescope's results (gradescope-autograders.readthedocs.io): private tests show after the grades are published."""
    return {
        "score": scores.earned,
        "execution_time": round(scores.seconds, 1),
        "output": "\n".join([f"{scores.earned:g} of {scores.points:g} points", *scores.notes]),
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [
            {
                "number": score.exercise,
                "name": score.test.split("::")[1].removeprefix("test_").replace("_", " "),
                "score": score.earned,
                "max_score": score.points,
                "status": "passed" if score.passed else "failed",
                "output": score.message,
                "visibility": "after_published" if score.hidden else "visible",
            }
            for score in scores.tests
        ],
    }


def classroom50(scores):
    return {
        "score": scores.earned,
        "max-score": scores.points,
        "tests": [
            {"test-name": s.test, "passed": s.passed, "score": s.earned, "max-score": s.points} for s in scores.tests
        ],
    }


def save(path, scores):
    write_text(path, json.dumps(scores, indent=1) + "\n")
