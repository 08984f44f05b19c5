"""The driver's side of files: ``files=`` and ``fetch`` (driver)."""
