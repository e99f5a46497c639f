"""The time of one evaluation against the number of objects, from the kept benchmark."""

import matplotlib.pyplot as plt
from sources import RESULTS, tables_of
from style import COLOURS

((head, rows),) = tables_of((RESULTS / "cost-against-n.md").read_text())
objects = [int(column.partition(" ")[0]) for column in head[2:]]

figure, axes = plt.subplots(figsize=(6.2, 3.6))
for (name, _, *cells), colour in zip(rows, COLOURS, strict=True):
    times = [float(cell.partition(" ")[0]) for cell in cells]
    axes.loglog(objects, times, "o-", color=colour, markersize=4, label=name)
axes.set(xlabel="objects per event", ylabel="time of one evaluation per event [ms]")
axes.set_title("one thread of a CPU, float32, no gradients", fontsize=10)
axes.legend(fontsize=9)
