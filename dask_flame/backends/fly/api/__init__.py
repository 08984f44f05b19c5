"""The Machines API of Fly: requests, their pace and errors (driver)."""
