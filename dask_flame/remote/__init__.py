"""The process of a scheduler that is apart from its driver (scheduler's pod)."""
