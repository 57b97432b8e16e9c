"""Networks that a method owns."""

from pml_extras.nn.message_passing import MessagePassingNetwork

__all__ = ["MessagePassingNetwork"]
