"""Take a picture of a cluster and of ``watch`` as a notebook shows them, from a real run.

    python notebook.py notebook.png

The notebook is executed by a kernel; what it leaves is shown to Chromium.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbclient
import nbformat
from shoot import shoot

CELLS = (
    """
from dask.distributed import Client
from dask_flame import FlameCluster, report, watch

client = Client(FlameCluster(max=16, dashboard_address="127.0.0.1:0"))
""",
    """
import math, random, time
from IPython.display import HTML, display

def train(rate):
    random.seed(rate)
    floor = 0.1 + 0.25 * abs(math.log10(rate / 0.06))
    for step in range(150):
        time.sleep(0.05)
        loss = floor + 2 * math.exp(-rate * step * 2) + random.gauss(0, 0.015)
        report(step=step, loss=loss + (0.03 * max(0, step - 20) if rate > 0.2 else 0))
        if rate > 0.2 and step == 80:
            raise ValueError("diverged")

rates = [0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3]
futures = client.map(train, rates, key=[f"rate={rate}" for rate in rates])
while sum(runner.busy for runner in client.cluster.runners.values()) < len(rates):
    time.sleep(0.1)
time.sleep(1)
display(HTML(client.cluster._repr_html_()))
""",
    "watch(futures)",
    "client.close(); client.cluster.close()",
)


def main(output: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    nbclient.NotebookClient(notebook, timeout=120).execute()
    shown = [o["data"] for cell in notebook.cells for o in cell.outputs if "data" in o]
    page = next(data["text/html"] for data in shown if "flame-panel" in data.get("text/html", ""))
    curves = next(data["image/svg+xml"] for data in shown if "image/svg+xml" in data)
    with TemporaryDirectory() as folder:
        file = Path(folder, "page.html")
        body = f'<body style="margin:14px;background:#fff">{page}<br>{curves}</body>'
        file.write_text(f'<meta charset="utf-8">{body}')
        shoot(file.as_uri(), output, width=930, height=620, wait="true")


if __name__ == "__main__":
    main(*sys.argv[1:])
