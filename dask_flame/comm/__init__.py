"""Connections between the processes of one user on one machine (all places).

A communication backend for distributed, with the scheme ``flame://``, over Unix sockets. Before
anything is read, both sides check that the other one belongs to the same user. A cluster and its
runners register it; a Client of another program finds it by its entry point.
"""
