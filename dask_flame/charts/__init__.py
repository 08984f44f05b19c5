"""Shared by the pages and the notebook: colors, ranking, curves and axes (scheduler, driver)."""
