"""Values and small tools for any place; nothing here knows a backend or a scheduler."""
