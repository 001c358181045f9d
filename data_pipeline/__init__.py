"""Scene sources, the dataset builder and the loader: the host's half of training, in numpy."""
