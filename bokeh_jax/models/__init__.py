"""The diffusion transformer and the conditions of refocusing."""
