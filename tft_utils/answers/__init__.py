"""References and checks of the exercises, one module per lesson.

In `tft_utils.answers.<lesson>` the function `<exercise>` is the reference; its text equals the
fence of the notebook's solution cell. `check_<exercise>(attempt)` raises `exercises.Wrong` with a
hint when an attempt is wrong. Checks test what a function does, never how it is written.
"""
