"""What can only be seen on a GPU, in one command of some twelve minutes.

    python -m tests.gpu --minutes 12 --out DIR [--data FILE] [--resume DIR]

``README.md`` beside this file says how to prepare for it. `plan` has what is tried and in which
order, `schedule` what happens when a case fails, hangs or is cut off, and `publish` turns results
into the files that the pages show.
"""
