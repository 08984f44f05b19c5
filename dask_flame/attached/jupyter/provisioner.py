"""Start and end the kernel of an attached application (Jupyter server, or another front end).

The kernel is a process beside the front end. It is connected to the application, which is nobody's
child here: to end the kernel is to detach.
"""

from __future__ import annotations

from typing import Any

import zmq
from jupyter_client.provisioning import LocalProvisioner
from traitlets import Integer, Unicode

from dask_flame.attached.client.choice import choose


class AttachProvisioner(LocalProvisioner):
    """Starts a kernel for one application, which must be running.

    Attributes
    ----------
    application : str
        Name of the application, from the kernel specification.
    chosen : int
        Process id of one of its instances; 0: any.
    """

    application = Unicode()
    chosen = Integer(0)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Check that the application runs, so that the front end shows why there is no kernel.

        Raises
        ------
        dask_flame.errors.FlameError
            It does not; the message names those that do.
        """
        choose(self.application, self.chosen)
        self._never_restart_by_itself()
        self._encrypt()
        launched: dict[str, Any] = await super().pre_launch(**kwargs)
        return launched

    def _encrypt(self) -> None:
        """Keep other users of this machine from reading the outputs.

        Jupyter signs what a front end sends, but whoever connects to the kernel's port of outputs
        reads them. Where jupyter_client and ZeroMQ can, only the holder of the connection file can
        connect.
        """
        if getattr(self.parent, "transport_encryption", None) == "disabled" and zmq.has("curve"):
            self.parent.transport_encryption = "auto"

    def _never_restart_by_itself(self) -> None:
        """Keep Jupyter from starting a kernel again that has been killed.

        A new kernel would have an empty namespace, perhaps in another process of the application.
        """
        restarter = getattr(self.parent, "restarter_class", None)
        if restarter is not None and not getattr(restarter, "never_restarts", False):
            members = {"restart_limit": Integer(0), "never_restarts": True}
            self.parent.restarter_class = type("NoRestarter", (restarter,), members)
