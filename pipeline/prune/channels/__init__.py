"""Channel-group algebra: which channels of an ONNX graph come and go together, and how they are taken out.

`analyse` follows the channels of every layer through the graph, by one rule an operator (`rules.py`). What must go
together is a unit of a `Group`; `Channels.masks` zeroes units, `Channels.remove` takes them out, and both give the same
function.
"""

from secateur.pipeline.prune.channels.groups import Channels, Group, Member, analyse

__all__ = ["Channels", "Group", "Member", "analyse"]
