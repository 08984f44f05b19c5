"""Values and small tools that any place uses; nothing here knows a back end or a scheduler."""
