"""A campaign of faults: cases made from seeds, played by real processes, and judged.

================== ==========================================================================
``case``           what a case is, made from its seed
``calls``          what its calls do, on the runners
``boots``          how its boots fail, on the runners
``unsteady``       a local backend that fails on demand
``faults``         what is done to a running case, and when
``play``           one case from its cluster's start to its end
``judge``          what must hold afterwards
``driver``         the same in a process of its own, which can be killed
``trial``          a case from its count to its report, with a driver that is killed
``substrate_case`` what cases on Kubernetes and Fly have in common
``pods_case``      what a case on Kubernetes is, made from its seed
``pods``           a case on Kubernetes: what is done to its pods, and to the API server
``fly_case``       what a case on Fly is, made from its seed
``machines``       a case on Fly: what is done to its machines, and to the Machines API
================== ==========================================================================
"""
