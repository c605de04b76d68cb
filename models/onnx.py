"""One step of a learner's networks as an ONNX graph, and what goes in and comes out, for those who serve it without this code.

Letters: B rows, F input features, M members, D hidden units, H lead times, Q quantile levels, P paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models import covariates, inputs, scale
from models.carry import HIDDEN
from models.inputs import BEND, CLIP, FLOOR, LAGS
from models.learner import Learner
from models.network import PATHS, Ensemble, Flat

OPSET = 18
BATCH = "batch"  # the name of the dimension B
CARRIED = 8  # missing steps of a carry that are told apart, see models.inputs.features


class NoNetworks(ValueError):  # noqa: N818 - named for what it says
    """The model has no networks that anybody has taught."""


class OneStep(nn.Module):
    """What `Learner` runs for a sample: all members side by side, one dilated step."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, features: Tensor, carry: Tensor, blend: Tensor, paths: Tensor) -> tuple[Tensor, ...]:
        """(B, F), (B, 2M, D), (B, H), (B, P, H) -> points, medians (B, M, H), quantiles (B, M, Q, H), the carry after (B, 2M, D)."""
        outputs, after = self.ensemble(features[:, None], carry)
        said = self.ensemble.say([output[:, 0] for output in outputs], features, blend, paths)
        return (*(torch.stack(list(each), 1) for each in zip(*said, strict=True)), after)


def graph(learner: Learner, weights: Tensor, told: Mapping[str, str]) -> bytes:
    """An ONNX file of the learner's networks with these flat weights (P,), and what else it shall tell. Raises NoNetworks."""
    if not learner.taught:
        raise NoNetworks(f"its model is {learner.config.model}, whose networks nobody teaches")
    ensemble = Ensemble(**learner.plan()["network"])
    Flat(ensemble).read(weights)
    ensemble.requires_grad_(requires_grad=False)
    shapes = sizes(learner)
    names = list(shapes["inputs"])
    given = tuple(torch.zeros(2, *shape) for shape in shapes["inputs"].values())  # of one row it would take that it is always one
    batch = torch.export.Dim(BATCH)
    with torch.no_grad():  # the cells' gradients are by hand, and no part of a graph
        step = torch.export.export(OneStep(ensemble), given, dynamic_shapes={name: {0: batch} for name in names}, strict=False)
        program = torch.onnx.export(step, input_names=names, output_names=list(shapes["outputs"]), opset_version=OPSET, verbose=False)
    assert program is not None
    return _plain(program.model_proto, told)


def sizes(learner: Learner) -> dict[str, dict[str, tuple[int, ...]]]:
    """Inputs and outputs of the graph by name, in order: the shape of a row."""
    members, c = learner.members, learner.config
    carry = (2 * members, c.hidden)
    said = (members, c.horizon)
    given: dict[str, tuple[int, ...]] = {
        "features": (learner.form.features,),
        "carry": carry,
        "blend": (c.horizon,),
        "paths": (PATHS + learner.form.more, c.horizon),
    }
    return {
        "inputs": given,
        "outputs": {"points": said, "medians": said, "quantiles": (members, len(c.levels), c.horizon), "carry_after": carry},
    }


def _plain(file: Any, told: Mapping[str, str]) -> bytes:
    """The exporter's file without its notes on our source, with a name for the batch, and with what is told."""
    graph = file.graph
    del graph.value_info[:]
    for notes in (file, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del notes.metadata_props[:]
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = BATCH
    for key, text in told.items():
        entry = file.metadata_props.add()
        entry.key, entry.value = key, text
    return bytes(file.SerializeToString(deterministic=True))


# In words


def layout(learner: Learner) -> dict[str, Any]:
    """What the graph's inputs are made of and its outputs mean, as plain values."""
    form, c, shapes = learner.form, learner.config, sizes(learner)
    words = {name: {"shape": [BATCH, *shape], "is": MEANING[name]} for of in shapes.values() for name, shape in of.items()}
    return {
        "opset": OPSET,
        "inputs": {name: words[name] for name in shapes["inputs"]},
        "outputs": {name: words[name] for name in shapes["outputs"]},
        "terms": TERMS,
        "horizon": c.horizon,
        "season": c.season,
        "further_seasons": list(c.further_seasons),
        "step_us": c.step_us,
        "levels": list(c.levels),
        "lags": LAGS,
        "clip": CLIP,
        "bend": BEND,
        "floor": FLOOR,
        "feature_lead": int(form.units[min(2, len(form.units) - 1)]) + 1,
        "lasting_within": scale.WITHIN,
        "paths": [
            *NAIVE,
            *(f"{kind}_{steps}" for steps in c.further_seasons for kind in ("last", "offset")),
            *(f"{kind} of {c.covariates[k]}" for kind in ("change", "reaction") for k in form.known.ahead),
        ],
        "features": [{"name": name, "is": meaning} for name, meaning in features(form, c.covariates)],
    }


TERMS = {
    "v[k]": "the value k steps before the cell that is forecast from; v[0] is the cell's own. One that is missing is not known, "
    "never zero, unless settings.gaps fills it",
    "cell": "the time of v[0] in microseconds since 1970-01-01T00:00:00Z, divided by step_us and rounded down",
    "level": "the newest value that was observed, at the cell or before it",
    "whole[h], back[h]": "whole[h]: lead h rounded up to whole seasons, in steps; back[h] = whole[h] - h",
    "last[h], before[h], offset[h]": "v[back[h]] - level; v[back[h] + season] - level; v[whole[h]] - level; not known without a season",
    "last_S[h], offset_S[h]": "as last[h] and offset[h], of a further season of S steps (see further_seasons)",
    "size": "the series' mean absolute one-step change, as a running mean; greater than 0",
    "naive[n][h]": "mean absolute errors at lead h in units of size, as running means, of the last value (n = 0), of the value a whole "
    "number of seasons before (1), and of the last value carried along the course of the last season (2). "
    "Without a season naive[1][h] = 1.5 * sqrt(horizon) and naive[2][h] = 1.5 * sqrt(h)",
    "lasting[h]": "what the least of naive[.][h] has been for long, divided by what it is: at most lasting_within, "
    "at least 1 / lasting_within; 1 if not known",
    "unit[h]": "size * max(least of naive[.][h], floor) * lasting[h]: what points and quantiles are said in",
    "feature_unit": "size * naive[0][feature_lead] * lasting[feature_lead]",
    "clipped(x)": "x within -clip and clip, and 0 where x is not known",
    "bent(x)": "x where |x| <= bend, else sign(x) * (bend + log(1 + |x| - bend)), clipped",
    "networks": "the outputs of several differ, and a model's version says nothing of how to weigh them: their mean will do",
}
NAIVE = ("last", "before", "offset")
MEANING = {
    "features": "see features, in their order",
    "carry": "carry_after of the step lags cells before: each of the lags phases (cell % lags) has a carry of its own, "
    "0 before its first step. A cell that was not observed makes none: the one before it stays. Tidecast keeps every second row from the "
    f"first on (hidden states) in steps of 1 / {HIDDEN}, and all of them as float16",
    "blend": "where the naive forecasts point, in unit[h]: "
    "(w1 * clipped(last[h] / unit[h]) + w2 * clipped((last[h] - offset[h]) / unit[h])) / (w0 + w1 + w2), "
    "where wn = (least of naive[.][h] that are known, divided by naive[n][h]) ** 4, and 0 for what is not known; "
    "the last value (n = 0) is always known",
    "paths": "see paths, in their order: those of the series itself are clipped(x[h] / unit[h])",
    "points": "what each network says of each lead: the forecast is level + unit[h] * points[h]",
    "medians": "likewise the median",
    "quantiles": "likewise the quantiles of levels, ascending; what Tidecast serves is half of this, and half where errors have lain",
    "carry_after": "what each network remembers: hidden and cell of the first, of the second, and so on; the cell is an LSTM's alone",
}


def features(form: inputs.Shape, names: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Name and meaning of each input feature, in the order of `models.inputs.features`; `names` of the covariates.

    >>> [name for name, _ in features(inputs.shape(1, None, 1))][-6:]
    ['carry_gap', 'kind_1', 'zero_1', 'zero_2', 'zero_3', 'zero_4']
    """
    lags, kinds = range(1, LAGS), [int(k) + 1 for k in form.units]
    found = [
        *((f"change_{k}", f"bent((v[{k}] - level) / feature_unit)") for k in lags),
        *((f"seen_{k}", f"1 if v[{k}] is known, else 0") for k in lags),
        ("seen_0", "1 if v[0] is known, else 0"),
        (f"rise_{LAGS}", f"bent((level - v[{LAGS}]) / feature_unit)"),
        (f"seen_{LAGS}", f"1 if v[{LAGS}] is known, else 0"),
        ("silence", f"k - 1, divided by {LAGS}, where v[k] is the newest known one of v[1] to v[{LAGS}]; 1 if none is"),
        (
            "carry_gap",
            f"how many steps of its phase lie between the carry and this one, at most {CARRIED}, divided by {CARRIED}; 0: no carry",
        ),
        *((f"kind_{h}", f"ln(naive[0][{h}])") for h in kinds),
    ]
    course = [int(k) + 1 for k in form.ahead]
    if form.season is not None:
        found += [
            ("offset", "bent(offset[1] / feature_unit)"),
            ("offset_known", "1 if offset[1] is known, else 0"),
            *((f"course_{h}", f"bent(last[{h}] / feature_unit)") for h in course),
            *((f"course_known_{h}", f"1 if last[{h}] is known, else 0") for h in course),
            *((f"seasonal_{h}", f"ln(naive[1][{h}] / naive[0][{h}])") for h in kinds),
            *((f"drift_{h}", f"ln(naive[2][{h}] / naive[0][{h}])") for h in kinds),
        ]
    for steps in (season.steps for season in form.further):
        found += [
            (f"offset_{steps}", f"bent(offset_{steps}[1] / feature_unit)"),
            (f"offset_known_{steps}", f"1 if offset_{steps}[1] is known, else 0"),
            *((f"course_{steps}_{h}", f"bent(last_{steps}[{h}] / feature_unit)") for h in course),
            *((f"course_known_{steps}_{h}", f"1 if last_{steps}[{h}] is known, else 0") for h in course),
        ]
    if form.season is not None:
        found += _waves("season", form.season, inputs.SEASONAL)
    weekly = inputs.week(form.step_us)
    for steps in (season.steps for season in form.further if season.steps != weekly):
        found += _waves(f"season_{steps}", steps, inputs.WEEKLY)
    if weekly is not None:
        found += _waves("week", weekly, inputs.WEEKLY)
    found += _covariates(form.known, names)
    padding = form.features - len(found)
    return [*found, *((f"zero_{k}", "0") for k in range(1, padding + 1))]


def _waves(name: str, period: int, harmonics: int) -> list[tuple[str, str]]:
    turn = f"2 * pi * (cell % {period}) / {period}"
    return [(f"{name}_{f}_{k}", f"{f}({k} * {turn})") for k in range(1, harmonics + 1) for f in ("sin", "cos")]


def _covariates(known: covariates.Plan, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """See models.covariates.features."""
    leads, ahead = known.leads + 1, [names[k] for k in known.ahead]
    each = [
        ("stands", "what is known last less its mean, in standard deviations"),
        ("reaction", "how its changes have moved together with those of the value: a correlation"),
        ("known", "1 if it is known of the cell, else 0"),
        *((f"change_{k}", f"from {k} steps before the cell to what is known last, in units of its changes") for k in range(1, LAGS + 1)),
        ("known_share", f"of the cell and the {LAGS} before it, how many are known"),
    ]
    return [
        *((f"{name}: {one}", f"covariate {name}: {meaning}; 0 where not known") for name in names for one, meaning in each),
        *(
            (f"{name}: course_{h}", f"covariate {name}: from what is known last to lead {h}; 0 where not known")
            for name in ahead
            for h in leads
        ),
        *((f"{name}: course_known_{h}", f"covariate {name}: 1 if lead {h} is known, else 0") for name in ahead for h in leads),
    ]
