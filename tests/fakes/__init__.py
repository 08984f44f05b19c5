"""Substrates that tests run on, with what theirs would refuse."""
