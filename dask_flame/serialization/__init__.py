"""How calls, results and errors are pickled, and read without harm."""
