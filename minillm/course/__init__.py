"""Floor 8: the course. Exercises cut out of the solved package, the tests that mark them, and the commands around both.

    regions   what is an exercise: the lines between BEGIN SOLUTION and END SOLUTION
    index     all of them, with their lesson, tests, points and hints
    start     a learner's files: the same sources with the regions emptied
    plugin    pytest --impl work: the same tests, the learner's files (overlay, outcomes, broken, watchdog)
    checks    what an exercise's test imports: check_close, exercise, draws, seeds
    check     check, hint, solution, status: one exercise at a time, the next step always named
    grade     scores for an untrusted submission: lint and box, then a judge that runs the tests (bench, remote, stand_in, far)
              and calls the submission across a wall (wire; mirror: packing, unpacking, kinds; raised), in a child (proxies, jail)
    kills     which wrong solution is caught by which test
    release   what an instructor hands out, and what the autograder runs
    cards     interview questions with recomputed numbers (formulas); quiz asks them (recall), anki exports them
    notebook  .ipynb from its source, the same bytes every time (notebook_contract, model_at_hand)
"""
