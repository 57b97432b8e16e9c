import pytest
import torch

from pml_extras.functional import pnp


@pytest.mark.parametrize(
    ("name", "value"), [("variant", "ds"), ("variant", "o"), ("alpha", 0.0), ("b", -1.0)]
)
def test_pnp_refuses_what_it_has_no_formula_for(name, value):
    numbers = {"variant": "Ds", "alpha": 1.0, "b": 2.0, name: value}
    with pytest.raises(ValueError, match=rf"^{name}: expected"):
        pnp(torch.ones(2), **numbers)
