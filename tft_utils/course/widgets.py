"""Explorers: an extra beneath a still figure, for readers who run the notebook."""

from collections.abc import Callable

import ipywidgets

from tft_utils.course import plots


def step_through(n: int, draw: Callable[[int], plots.Drawn]) -> ipywidgets.VBox:
    """A slider from 0 to n - 1, and below it the figure and alt text that `draw` gives there."""
    slider = ipywidgets.IntSlider(max=n - 1, description="word")
    image, alt = ipywidgets.Image(format="png"), ipywidgets.Label()

    def redraw(change: object = None) -> None:
        figure, alt.value = draw(slider.value)
        image.value = plots.png(figure)

    slider.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([slider, image, alt])


def choose(options: dict[str, list], draw: Callable[..., plots.Drawn]) -> ipywidgets.VBox:
    """A menu for each option, and below them the figure and alt text that `draw` gives for what is
    chosen, passed in the order of `options`."""
    menus = [
        ipywidgets.Dropdown(options=list(found), description=name) for name, found in options.items()
    ]
    image, alt = ipywidgets.Image(format="png"), ipywidgets.Label()

    def redraw(change: object = None) -> None:
        figure, alt.value = draw(*(menu.value for menu in menus))
        image.value = plots.png(figure)

    for menu in menus:
        menu.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([ipywidgets.HBox(menus), image, alt])
