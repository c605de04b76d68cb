# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["deep-river==0.3.4", "pytest"]
# ///
"""deep-river's LSTM forecaster, in a process of its own: it wants a torch between 2.5 and 2.6, older than ours (and
imports pytest without asking for it).

`ask` starts this file as a script that brings what it needs (`uv run --script`, 3 GB the first time) and passes JSON through it:

    {"values": [...], "horizon": 3, "grace": 12, "aligned": true}   -> forecasts from the value at `grace` on
    {"series": 1, "steps": 500, "skip": 100, "horizon": 24}         -> CPU seconds of forecasting and learning the steps not skipped
"""

import json
import subprocess
import sys
import time
from pathlib import Path


def ask(**question):
    """What the LSTM says to it; SystemExit if it cannot be had."""
    try:
        words = ["uv", "run", "--quiet", "--script", str(Path(__file__))]
        done = subprocess.run(words, input=json.dumps(question), stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"deep-river cannot be had ({error}); it is fetched by uv, or left out with --without-deep-river") from None
    return json.loads(done.stdout)


def lstm():
    """As in deep-river's own forecasting benchmark."""
    from deep_river.forecasting import LSTMForecaster

    return LSTMForecaster(
        window_size=12, hidden_size=32, num_layers=1, loss_fn="mse", optimizer_fn="adam", lr=1e-3, gradient_clip_value=1.0
    )


def forecasts(values, horizon, grace, aligned):
    model, said = lstm(), []
    for at, value in enumerate(values):
        counts = grace <= at < len(values) - horizon
        if counts and not aligned:
            said.append(model.forecast(horizon))
        model.learn_one(value)
        if counts and aligned:
            said.append(model.forecast(horizon))
    return said


def seconds(series, steps, skip, horizon):
    import math

    models = [lstm() for _ in range(series)]
    began = time.process_time()
    for step in range(steps):
        if step == skip:
            began = time.process_time()
        for k, model in enumerate(models):
            model.learn_one(math.sin(step / 4 + k))
            model.forecast(horizon)
    return time.process_time() - began


def main():
    import torch

    torch.set_num_threads(1)
    question = json.loads(sys.stdin.read())
    print(json.dumps((forecasts if "values" in question else seconds)(**question)))


if __name__ == "__main__":
    main()
