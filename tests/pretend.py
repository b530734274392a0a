"""A pretend CUDA device: a tensor there is one of the CPU that says that it is there, and mixes
with none that is not. Random numbers are the CPU's."""

import collections
import contextlib

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)


class There(torch.Tensor):
    """A tensor on the device. Only Python believes that: for torch itself it is on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)

    def __deepcopy__(self, memo):
        return there(here(self).detach().clone()).requires_grad_(self.requires_grad)

    def __reduce_ex__(self, protocol):  # saved as a plain tensor
        return here(self).__reduce_ex__(protocol)


class Generator(torch._C.Generator):
    def __new__(cls, device="cpu"):
        return super().__new__(cls, device="cpu")

    def __init__(self, device="cpu"):
        self.there = torch.device(device).type == "cuda"


def there(x):
    if type(x) is torch.Tensor:
        x.__class__ = There
    return x


def here(x):
    with torch._C.DisableTorchFunction():
        return x.as_subclass(torch.Tensor) if isinstance(x, There) else x


class Device(TorchFunctionMode):
    """Runs each function of torch on the CPU; `calls` counts those for the device."""

    def __init__(self):
        super().__init__()
        self.calls = collections.Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", str(function))
        if name in ("to", "cpu"):
            return self.move(name, *args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_device = given = any(isinstance(x, There) for x in tensors)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type != "meta":
            on_device = torch.device(kwargs["device"]).type == "cuda"
            kwargs["device"] = "cpu"
        if getattr(kwargs.get("generator"), "there", on_device) != on_device:
            raise RuntimeError(f"{name}: the generator is on another device")
        if name == "numpy" and given:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], There):
            tensors = [x for x in args[2:] if isinstance(x, torch.Tensor)]  # places may be here
        numbers = all(isinstance(x, There) or x.dim() == 0 for x in tensors)
        if given and name not in ("copy_", "_has_compatible_shallow_copy_type") and not numbers:
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device")
        self.calls[name] += on_device
        made = function(*args, **kwargs)
        in_place = any(made is x for x in args[:1])
        return tree_map(there, made) if on_device and not in_place else made

    def move(self, name, x, *args, **kwargs):
        device, dtype = "cpu", None
        if name == "to":
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        was = isinstance(x, There)
        to = was if device is None else torch.device(device).type == "cuda"
        self.calls["to the CPU"] += was and not to
        made = (x if was == to else here(x).clone()).to(dtype or x.dtype)
        return there(made) if to else made


@contextlib.contextmanager
def cuda():
    def load_cpu(file, map_location=None, **more):
        saved = load(file, map_location="cpu", **more)
        return tree_map(lambda x: x.to(map_location) if isinstance(x, torch.Tensor) else x, saved)

    load = torch.load
    with pytest.MonkeyPatch.context() as patch, Device() as device:
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch, "load", load_cpu)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        overwrite = "get_overwrite_module_params_on_conversion"  # else a weight loses its class
        patch.setattr(torch.__future__, overwrite, lambda: True)
        yield device
