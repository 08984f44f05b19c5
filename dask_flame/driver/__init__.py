"""The cluster object and the parts that it connects (driver)."""
