"""The distances of each family of fields in units of the floor, from the kept benchmark."""

import matplotlib.pyplot as plt
from sources import RESULTS, tables_of
from style import COLOURS, GREY

SHOWN = {"w1m": "jet mass", "w1p": "particles", "w1_pt": r"jet $p_T$", "w1_tau21": r"$\tau_{21}$"}
((head, rows),) = tables_of((RESULTS / "quality.md").read_text())
*families, floor = (
    {key: cell.partition(" ±") for key, cell in zip(head, row, strict=True)} for row in rows
)

figure, axes = plt.subplots(figsize=(6.2, 3.6))
for place, (metric, colour) in enumerate(zip(SHOWN, COLOURS, strict=True)):
    unit = float(floor[metric][0])
    values = [float(family[metric][0]) / unit for family in families]
    spreads = [float(family[metric][2] or 0) / unit for family in families]
    heights = [number + 0.15 * (1.5 - place) for number in range(len(families))]
    axes.errorbar(
        values, heights, xerr=spreads, fmt="o", color=colour, markersize=5, label=SHOWN[metric]
    )
axes.axvline(1, color=GREY, linestyle="--")
axes.text(1.05, len(families) - 0.45, "floor", color=GREY, fontsize=9)
axes.set_yticks(range(len(families)), [family["field"][0] for family in families])
axes.set(xscale="log", xlabel="1-Wasserstein distance to the truth / floor", ylim=(-0.6, 4.8))
axes.legend(fontsize=9, ncols=2)
