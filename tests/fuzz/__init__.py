"""Coverage-guided fuzzing: python -m tests.fuzz runs it for long, `test_fuzz.py` for seconds.

Each module but the shared ones has a `TARGET`: a function that gets any bytes, and raises if the code under test does
not keep a promise.
"""
