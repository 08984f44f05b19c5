"""Callbacks with which trainers of other libraries report; each module requires its library."""
