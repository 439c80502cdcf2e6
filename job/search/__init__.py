"""Search over a spec's values: trials that are runs, in a study of Optuna's."""
