"""Figures of lesson 05: a result goes in, a figure and its alt text come out."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tft_utils.plots import GREY, RC, STYLES
from tft_utils.stats import Estimate

THIRD = {"color": "#009E73", "linestyle": "-.", "marker": "^"}  # Okabe & Ito's green


def where_probes_read() -> tuple[Figure, str]:
    """The cause, the word that is probed, and the three places to read at it."""
    words = "The keys near the old cabinet that the boy likes are ...".split()
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(9, 2.3))
    axis.set(xlim=(-0.6, 11.6), ylim=(-0.75, 2.1))
    axis.axis("off")
    for x, word in enumerate(words):
        colour = {1: STYLES[0]["color"], 9: STYLES[1]["color"]}.get(x, "black")
        axis.text(x, 0, word, ha="center", fontsize=12, color=colour,
                  weight="bold" if x in (1, 9) else "normal")  # fmt: skip
    axis.text(1, -0.5, "the cause: plural", ha="center", color=STYLES[0]["color"])
    axis.text(5.5, -0.5, "other nouns try to mislead", ha="center", color=GREY)
    axis.text(9, -0.5, "the probed word", ha="center", color=STYLES[1]["color"])
    places = (
        "residual stream\nafter k blocks",
        "what a block's\nmixer adds",
        "the state that\na layer carries",
    )
    arrow = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.5}
    for x, place in zip((5.6, 8, 10.4), places, strict=True):
        axis.annotate("", (x, 1.2), (9, 0.4), arrowprops=arrow)
        axis.text(x, 1.65, place, ha="center", va="center", bbox={
            "boxstyle": "round", "facecolor": "white", "edgecolor": STYLES[1]["color"]})  # fmt: skip
    axis.text(
        2.2,
        1.65,
        "A probe: a linear map from\none such vector to 'plural'",
        ha="center",
        va="center",
    )
    alt = ("A sentence whose subject is far from its verb; a probe reads the subject's number at the "
           "word before the verb, in the stream, in a mixer's output, or in a state.")  # fmt: skip
    return figure, alt


def _curve(axis: Axes, estimates: Sequence[Estimate], label: str, style: dict) -> None:
    """Estimates over k/L with their band."""
    x = [k / (len(estimates) - 1) for k in range(len(estimates))]
    axis.plot(x, [e.value for e in estimates], label=label, **style)
    axis.fill_between(x, [e.low for e in estimates], [e.high for e in estimates],
                      color=style["color"], alpha=0.2, linewidth=0)  # fmt: skip


def by_depth(tasks: Mapping[str, Mapping[str, tuple[Sequence[Estimate], Sequence[Estimate]]]],
             ylabel: str) -> tuple[Figure, str]:  # fmt: skip
    """A panel a task: per model the accuracy at every depth, and its control thin and grey.

    tasks: title -> model -> (accuracy, control), one estimate a depth.
    """
    with plt.rc_context(RC):
        rows, columns = (2, -(-len(tasks) // 2)) if len(tasks) > 2 else (1, len(tasks))
        figure, axes = plt.subplots(rows, columns, figsize=(9.4 if rows > 1 else 7, 1 + 2.1 * rows + 0.4),
                                    sharex=True, sharey=True, squeeze=False)  # fmt: skip
    flat = axes.flatten()
    for axis, (title, models) in zip(flat, tasks.items(), strict=False):
        for style, (name, (found, control)) in zip(STYLES, models.items(), strict=True):
            _curve(axis, found, name, style | {"markersize": 4})
            x = [k / (len(control) - 1) for k in range(len(control))]
            axis.plot(x, [e.value for e in control], label=f"{name}, control",
                      **style | {"color": GREY, "linewidth": 1, "markersize": 2})  # fmt: skip
        axis.set(title=title, ylim=(-0.03, 1.05))
    for axis in flat[len(tasks) :]:
        axis.axis("off")
    for axis in flat[max(0, len(tasks) - columns) : len(tasks)]:
        axis.set_xlabel("depth k/L")
        axis.xaxis.set_tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    handles, labels = flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=10)
    said = "; ".join(f"{title}: " + ", ".join(f"{name} {a[-1].value:.2f} against {b[-1].value:.2f}"
                                             for name, (a, b) in models.items())
                     for title, models in tasks.items())  # fmt: skip
    return figure, f"{ylabel} and its control after the last block. {said}."


def travelling(lines: Mapping[str, Mapping[int, Estimate]]) -> tuple[Figure, str]:
    """Accuracy against the number of words since the cause, one line a place to read."""
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(7, 3.6))
    for style, (name, found) in zip((*STYLES, THIRD), lines.items(), strict=True):
        axis.plot(list(found), [e.value for e in found.values()], label=name, **style)
        axis.fill_between(list(found), [e.low for e in found.values()], [e.high for e in found.values()],
                          color=style["color"], alpha=0.2, linewidth=0)  # fmt: skip
    axis.axhline(0.5, color=GREY, linestyle=":", linewidth=1.5)
    axis.text(list(found)[-1], 0.52, "chance", color=GREY, ha="right")
    axis.set(xlabel="words since the subject (its verb is still to come)", ylim=(0.2, 1.03),
             ylabel="accuracy of a probe for\nthe subject's number", xticks=list(found))  # fmt: skip
    axis.legend(frameon=False, loc="lower left")
    values = {name: [e.value for e in found.values()] for name, found in lines.items()}
    ends = "; ".join(f"{name} from {some[0]:.2f} to {some[-1]:.2f}" for name, some in values.items())
    return figure, f"Accuracy from 0 to {list(found)[-1]} words behind the subject: {ends}."


def word_by_word(words: Sequence[str], bits: Mapping[str, Mapping[str, Sequence[Estimate]]],
                 ) -> tuple[Figure, str]:  # fmt: skip
    """Surprisal of each word of a frame, a panel a model; `bits` maps model -> condition -> estimates."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(bits), figsize=(9, 3.4), sharey=True)
    looks = (STYLES[0], STYLES[1], THIRD)
    for axis, (name, conditions) in zip(axes, bits.items(), strict=True):
        for look, (condition, found) in zip(looks, conditions.items(), strict=True):
            axis.errorbar(range(len(words)), [e.value for e in found], label=condition, capsize=3,
                          yerr=[[e.value - e.low for e in found], [e.high - e.value for e in found]],
                          **look | {"markersize": 5})  # fmt: skip
        axis.set_xticks(range(len(words)), words, rotation=30, ha="right")
        axis.set(title=name, xlabel="word of the sentence")
    axes[0].set_ylabel("surprisal (bits)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3,
                  frameon=False, fontsize=10)  # fmt: skip
    at = len(words) - 1
    said = "; ".join(f"{name}: " + ", ".join(f"{condition} {found[at].value:.1f}"
                                            for condition, found in conditions.items())
                     for name, conditions in bits.items())  # fmt: skip
    return figure, f"Bits of surprisal at the word '{words[at]}'. {said}."


def after_erasure(shares: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> tuple[Figure, str]:
    """Per model the share of right answers in each capability; `shares`: model -> what -> capability."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(shares), figsize=(9, 3), sharex=True, sharey=True)
    looks = (THIRD, STYLES[1], STYLES[0])
    for axis, (name, conditions) in zip(axes, shares.items(), strict=True):
        for shift, look, (condition, found) in zip(
            (-0.2, 0, 0.2), looks, conditions.items(), strict=True
        ):
            values = list(found.values())
            axis.errorbar([e.value for e in values], [i + shift for i in range(len(values))], capsize=3,
                          xerr=[[e.value - e.low for e in values], [e.high - e.value for e in values]],
                          label=condition, **look | {"linestyle": "", "markersize": 5})  # fmt: skip
        axis.set_yticks(range(len(found)), [kind.replace("_", " ") for kind in found])
        axis.axvline(0.5, color=GREY, linestyle=":", linewidth=1.5)
        axis.set(title=name, xlabel="share right", xlim=(0.3, 1.03))
    axes[0].invert_yaxis()
    axes[0].legend(frameon=False, fontsize=9, loc="lower left")
    first = next(iter(found))
    said = "; ".join(f"{name}: " + ", ".join(f"{condition} {each[first].value:.2f}"
                                            for condition, each in conditions.items())
                     for name, conditions in shares.items())  # fmt: skip
    return (
        figure,
        f"Share of right answers in {first.replace('_', ' ')}, by what is erased. {said}.",
    )
