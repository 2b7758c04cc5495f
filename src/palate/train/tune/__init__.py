"""Tuning: an Optuna study over config keys, or over a retriever's options, by validation items only.

A tune file names the run config, how many trials, and ranges or choices of keys:

    base: ml-100k.yaml
    trials: 20
    space:
      train.lr: {low: 1.0e-4, high: 1.0e-3, log: true}
      model.lora.rank: [16, 32, 64]

The study lives in its run folder (`study.db`, SQLite). The same command goes on where it was ended, by whatever;
several processes may work on one study. Importing this package loads neither torch nor Optuna.
"""

from __future__ import annotations

from palate.train.tune.file import Pruning, TuneConfig, read
from palate.train.tune.space import Knob, knobs

__all__ = ["Knob", "Pruning", "TuneConfig", "knobs", "read"]
