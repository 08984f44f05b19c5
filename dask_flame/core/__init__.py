"""Values and small tools for any place; nothing here knows a back end or a scheduler."""
