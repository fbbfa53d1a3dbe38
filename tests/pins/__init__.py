"""What a user can see of the package, frozen in files, so that it can be rebuilt around them.

`names.py` pins the public names, their signatures and the paths that pages name; `flags.py` the
options of every command; `runs.py` short runs: the tensors, the record, the card, the files. The
files are in `golden/`; `kept/` holds a set and a checkpoint that are read and never written anew.
After a change that is meant, write the golden ones anew and read the difference:

    python -m tests.pins            # says what is different, and by how much
    python -m tests.pins --write
"""
