"""python -m tft_utils.organisms: see `tft_utils.organisms.training`."""

from tft_utils.organisms.training import main

main()
