"""The servers that one would otherwise choose, each in a virtual environment of its own under build/peers/.

A folder for each: `adapter.py` says how it is installed, started and asked (ours, imports nothing of it),
`requirements.txt` pins it, the rest runs in its environment. All of them do the work of bench/work.py.
"""
