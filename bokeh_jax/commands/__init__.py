"""What the subcommands of `bokeh-jax` do, between the command line and the packages."""
