"""The Hydra configuration, a package so that it is found wherever the program runs from."""
