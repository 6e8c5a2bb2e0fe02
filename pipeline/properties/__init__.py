"""Properties made from data or over a box, as VNN-LIB files with their `instances.csv`: one file a kind.

| kind | no input … |
|---|---|
| `robust` | within ε of an image is given another class (or a target class) |
| `patch` | with k × k pixels of an image changed is given another class |
| `brightness` | brighter or darker by up to b is given another class |
| `within_range` | of a box has outputs beyond bounds |
| `monotone` | grows in one place while an output falls |
| `fair` | changes in protected features alone and is treated otherwise |
| `twins` | is right in the dense network and wrong in the pruned one |
| `equivalent` | has another class, or other outputs, in a second network |

The last four are about two networks (or one network twice) and need a product network for VNN-LIB 1.0.
"""

from secateur.pipeline.properties.agreement import RightToo, SameClass, Within
from secateur.pipeline.properties.boxes import Balls, Box, Pixels, around, given, read_array
from secateur.pipeline.properties.fairness import fair
from secateur.pipeline.properties.folder import FORMATS, write
from secateur.pipeline.properties.monotonicity import monotone
from secateur.pipeline.properties.numbers import Number, exact
from secateur.pipeline.properties.patches import patch
from secateur.pipeline.properties.ranges import within_range
from secateur.pipeline.properties.robustness import robust
from secateur.pipeline.properties.shifts import brightness
from secateur.pipeline.properties.statements import Property, PropertySet
from secateur.pipeline.properties.twinning import equivalent, twins

__all__ = [
    "FORMATS",
    "Balls",
    "Box",
    "Number",
    "Pixels",
    "Property",
    "PropertySet",
    "RightToo",
    "SameClass",
    "Within",
    "around",
    "brightness",
    "equivalent",
    "exact",
    "fair",
    "given",
    "monotone",
    "patch",
    "read_array",
    "robust",
    "twins",
    "within_range",
    "write",
]
