"""The history of the pools and their runners, in bounded memory."""
