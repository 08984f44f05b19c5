"""The notebook's side of an attachment (driver)."""
