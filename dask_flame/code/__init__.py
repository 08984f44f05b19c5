"""Send the driver's local modules along with its calls (all places).

A *version* is the content of all local modules at one moment: see
:mod:`dask_flame.code.manifest`. The driver computes it when it submits calls
(:mod:`~dask_flame.code.driver`), the scheduler stores it and sends it to runners
(:mod:`~dask_flame.code.scheduler`), and a runner imports the modules of a call from the version
that the call was submitted with (:mod:`~dask_flame.code.runner`).
"""
