"""Tests of the Fly backend."""
