"""Never ends, in Python, and will not hear the alarm."""
while True:
    try:
        while True:
            pass
    except BaseException:
        continue
