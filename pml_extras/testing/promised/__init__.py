"""The promises, by what they are about. A new module of promises is imported here and nowhere else.

The order of the imports is the order of the report.
"""

from pml_extras.testing.promised import (  # noqa: I001
    values as values,
    nothing_to_learn as nothing_to_learn,
    arguments as arguments,
    precision as precision,
    side_effects as side_effects,
    construction as construction,
    memory as memory,
    parts as parts,
    compiled as compiled,
    processes as processes,
)
