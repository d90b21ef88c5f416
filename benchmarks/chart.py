"""Draw the chart for the documentation from the JSON with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from .report import Document

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

# Leave out programs that are not clients.
PEERS = {
    "trio_nats": "#2a6f97",
    "nats-py": "#e9c46a",
    "nats-py+uvloop": "#d9a520",
    "nats-core": "#e08a6d",
    "nats-core+uvloop": "#c8553d",
    "natsrpy": "#8d99ae",
}
PANELS = {
    "publish": "Publish",
    "receive": "Receive",
    "tls": "Over TLS",
    "headers": "With one header",
    "request": "Requests",
    "responder": "Answer requests",
    "fan-in": "1,000 subscriptions with a task each",
    "connect": "Connect and close",
}
PER_ROW = 2


class Result(TypedDict):
    """The fields of a result used here. ``min`` and ``max`` exist if ``median`` does."""

    scenario: str
    group: str
    client: str
    unit: str
    median: float | None
    min: float
    max: float
    failure: str | None


def draw(path: Path, document: Document) -> None:
    """Write an SVG with a panel for each group. Whiskers show the worst and the best run."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    every = cast("list[Result]", document["results"])
    results = [item for item in every if item["median"] or item["failure"]]
    groups = [group for group in PANELS if any(item["group"] == group for item in results)]
    if not groups:
        raise ValueError("none of these scenarios has a place in the chart")
    rows = -(-len(groups) // PER_ROW)
    # Write the same file for the same numbers, with text as text.
    matplotlib.rcParams.update({"svg.hashsalt": "trio_nats", "svg.fonttype": "none"})
    figure, axes = pyplot.subplots(
        rows, PER_ROW, figsize=(12, 3.1 * rows + 0.9), squeeze=False, layout="constrained"
    )
    flat = [panel for line in axes for panel in line]
    for panel, group in zip(flat, groups, strict=False):
        _panel(panel, PANELS[group], [item for item in results if item["group"] == group])
    for panel in flat[len(groups) :]:
        panel.set_axis_off()
    handles = {
        label: handle
        for panel in flat
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        [handles[name] for name in PEERS if name in handles],
        [name for name in PEERS if name in handles],
        loc="outside upper center",
        ncols=len(PEERS),
        frameon=False,
    )
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _panel(panel: Axes, title: str, results: Sequence[Result]) -> None:
    scenarios = list(dict.fromkeys(item["scenario"] for item in results))
    present = {item["client"] for item in results}
    clients = [name for name in PEERS if name in present]
    width = 0.8 / max(1, len(clients))
    for number, client in enumerate(clients):
        shift = (number - (len(clients) - 1) / 2) * width
        mine = {item["scenario"]: item for item in results if item["client"] == client}
        for place, name in enumerate(scenarios):
            if name in mine and mine[name]["failure"]:
                panel.text(place + shift, 0, " failed", rotation=90, ha="center", fontsize=7)
        # Leave a gap for a client without a number.
        places = [
            place
            for place, name in enumerate(scenarios)
            if name in mine and not mine[name]["failure"]
        ]
        shown = [mine[scenarios[place]] for place in places]
        heights = [item["median"] or 0.0 for item in shown]
        below = [height - item["min"] for height, item in zip(heights, shown, strict=True)]
        above = [item["max"] - height for height, item in zip(heights, shown, strict=True)]
        panel.bar(
            [place + shift for place in places],
            heights,
            width,
            yerr=[below, above],
            color=PEERS[client],
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
            label=client,
        )
    panel.set_title(f"{title} [{results[0]['unit']}]", fontsize=10, loc="left")
    panel.set_xticks(range(len(scenarios)), [_short(name) for name in scenarios], fontsize=9)
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.tick_params(axis="y", labelsize=8)
    panel.grid(axis="y", linewidth=0.4, alpha=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _short(scenario: str) -> str:
    """Return the label of a scenario within its panel."""
    kind, _, rest = scenario.partition("-")
    if kind == "request":
        return f"{rest} in flight"
    if kind in ("publish", "receive", "tls") and rest:
        return kind if rest == "headers" else rest.replace("-", " ")
    return scenario
