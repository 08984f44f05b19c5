"""The models of sweep.py, chosen by Optuna's sampler and stopped by its pruner.

::

    python examples/sweep_optuna.py

The study is in Optuna's Dask storage, so that calls and other Clients of the cluster can read it
while it grows. See sweep.py for the data and their terms.
"""

import argparse
import warnings

import optuna
from dask.distributed import Client
from dask.system import CPU_COUNT
from optuna_integration.dask import DaskStorage
from sweep import train

from dask_flame import FlameCluster
from dask_flame.integrations.optuna import optimize


def suggest(trial: optuna.Trial) -> dict[str, float]:
    """Return the arguments of `train` for a trial."""
    return {
        "units": trial.suggest_int("units", 8, 128, log=True),
        "layers": trial.suggest_int("layers", 1, 2),
        "rate": trial.suggest_float("rate", 1e-4, 3e-2, log=True),
        "decay": trial.suggest_float("decay", 1e-5, 1e-1, log=True),
        "batch": trial.suggest_categorical("batch", [16, 32, 64, 128]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--runners", type=int, default=CPU_COUNT)
    args = parser.parse_args()
    # Optuna's Dask storage is experimental.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with FlameCluster(max=args.runners, cpus=1, idle_timeout="10s") as cluster:
        client = Client(cluster)
        print("Curves:", cluster.flame_link, flush=True)
        study = optuna.create_study(
            study_name="digits",
            storage=DaskStorage(client=client),
            sampler=optuna.samplers.TPESampler(seed=0),
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=2),
            direction="maximize",
        )
        ended = optimize(study, train, suggest, n_trials=args.models, metric="accuracy")
        pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in ended)
        print(f"{pruned} of {len(ended)} were stopped early. The best one:")
        print(f"{study.best_value:.1%} ", *(f"{n}={v:.3g}" for n, v in study.best_params.items()))
        print(cluster.cost())
