"""The process of a kernel that is attached to an application (beside the front end).

Jupyter starts it with the arguments that :mod:`.kernelspecs` writes.
"""

from __future__ import annotations

import sys
from typing import ClassVar

from ipykernel.kernelapp import IPKernelApp
from traitlets import Type

from dask_flame.attached.jupyter.kernel import AttachKernel
from dask_flame.errors import AttachError


class AttachKernelApp(IPKernelApp):
    """Runs the kernel until its front end ends it, or ends."""

    name = "dask-flame-attach"
    kernel_class = Type(AttachKernel, klass="ipykernel.kernelbase.Kernel")
    classes: ClassVar[list[type]] = [*IPKernelApp.classes, AttachKernel]


if __name__ == "__main__":
    sys.argv[0] = "Jupyter kernel"  # for the log of the application
    try:
        AttachKernelApp.launch_instance()
    except AttachError as error:
        # It has ended since the provisioner looked.
        sys.exit(str(error))
