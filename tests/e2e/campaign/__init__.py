"""A campaign of faults: cases made from seeds, played by real processes, and judged.

============== ==========================================================================
``case``       what a case is, made from its seed
``calls``      what its calls do, on the runners
``boots``      how its boots fail, on the runners
``unsteady``   a local backend that fails on demand
``faults``     what is done to a running case, and when
``play``       one case from its cluster's start to its end
``judge``      what must hold afterwards
``driver``     the same in a process of its own, which can be killed
``pods_case``  what a case on Kubernetes is, made from its seed
``pods``       a case on Kubernetes: what is done to its pods, and to the API server
============== ==========================================================================
"""
