"""Attribute and send prints (runner)."""
