"""What lets trainers of other libraries report by themselves; each module needs its library."""
