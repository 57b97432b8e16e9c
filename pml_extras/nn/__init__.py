"""Networks that a method owns."""

from pml_extras.nn.compression import CompressionHead
from pml_extras.nn.message_passing import MessagePassingNetwork

__all__ = ["CompressionHead", "MessagePassingNetwork"]
