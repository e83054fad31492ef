"""Ways of fine-tuning behind one interface: FFT, LoRA, MoRA and kin, for any nn.Module."""

from methods.base import AdapterMethod, Method
from methods.errors import MethodError
from methods.layer import AdapterLinear, Delta
from methods.loading import load_adapter

__all__ = ["AdapterLinear", "AdapterMethod", "Delta", "Method", "MethodError", "load_adapter"]
