"""Does a loss keep its promises? For any loss that is called as pml's losses are.

>>> from pytorch_metric_learning.losses import TripletMarginLoss
>>> report = check_loss(TripletMarginLoss, promises=["order", "class_names"])
>>> report.status("order").value
'kept'
>>> report.raise_if_broken()
"""

from pml_extras.testing.check import check_loss, promises
from pml_extras.testing.report import Outcome, Report, Status, table

__all__ = ["Outcome", "Report", "Status", "check_loss", "promises", "table"]
