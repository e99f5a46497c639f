"""Six events in an array of ten slots."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle
from style import BLUE

LENGTHS, SLOTS, HOLE = (10, 7, 4, 8, 1, 0), 10, (3, 2)

figure, axes = plt.subplots(figsize=(6.2, 2.9))
for event, length in enumerate(LENGTHS):
    for slot in range(SLOTS):
        real = slot < length and (event, slot) != HOLE
        axes.add_patch(
            Rectangle(
                (slot + 0.06, event + 0.08), 0.88, 0.84,
                facecolor=BLUE if real else "#E4E4E4", edgecolor="none",
            )
        )  # fmt: skip
        if not real:
            axes.text(
                slot + 0.5, event + 0.5, "?", ha="center", va="center", color="#9A9A9A", fontsize=9
            )
    count = length - (event == HOLE[0])
    axes.text(SLOTS + 0.25, event + 0.5, f"N = {count}", va="center", fontsize=10)
axes.set(xlim=(0, SLOTS + 1.6), ylim=(len(LENGTHS), 0), xlabel="slot", ylabel="event")
axes.set_xticks([slot + 0.5 for slot in range(SLOTS)], range(SLOTS))
axes.set_yticks([event + 0.5 for event in range(len(LENGTHS))], range(len(LENGTHS)))
axes.tick_params(length=0)
axes.grid(False)
axes.spines[:].set_visible(False)
