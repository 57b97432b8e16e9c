"""Networks that a method owns."""

from pml_extras.nn.message_passing import MessagePassingLayer, MessagePassingNetwork

__all__ = ["MessagePassingLayer", "MessagePassingNetwork"]
