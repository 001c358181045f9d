"""Names of the mesh's axes; what is cut along them: `training/sharding_rules.py`."""

MESH_AXES = ("data", "fsdp", "tensor")
# Those that share out examples.
BATCH_AXES = ("data", "fsdp")
HEADS_AXIS = "tensor"
