"""Explorers: an extra beneath a still figure, for readers who run the notebook."""

from collections.abc import Callable, Iterable

import ipywidgets

from tft_utils.course import plots


def step_through(n: int, draw: Callable[[int], plots.Drawn]) -> ipywidgets.VBox:
    """A slider from 0 to n - 1, and below it the figure and alt text that `draw` gives there."""
    return _explorer([slider := ipywidgets.IntSlider(max=n - 1, description="word")], slider, draw)


def choose(options: dict[str, Iterable], draw: Callable[..., plots.Drawn]) -> ipywidgets.VBox:
    """A menu for each option, and below them the figure and alt text that `draw` gives for what is
    chosen, passed in the order of `options`."""
    menus = [ipywidgets.Dropdown(options=list(of), description=name) for name, of in options.items()]
    return _explorer(menus, ipywidgets.HBox(menus), draw)


def _explorer(controls: list, shown: ipywidgets.Widget, draw: Callable) -> ipywidgets.VBox:
    image, alt = ipywidgets.Image(format="png"), ipywidgets.Label()

    def redraw(change: object = None) -> None:
        figure, alt.value = draw(*(control.value for control in controls))
        image.value = plots.png(figure)

    for control in controls:
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([shown, image, alt])
