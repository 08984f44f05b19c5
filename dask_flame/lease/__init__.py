"""The lease: who is connected to a scheduler, what it keeps for them, how they come back."""
