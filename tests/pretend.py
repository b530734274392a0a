"""A pretend CUDA device: a tensor there is one of the CPU that says that it is there; it mixes with
none that is not.

    with pretend.cuda() as device:
        x = torch.zeros(3, device="cuda")  # x.device is cuda:0, and x + torch.ones(3) is refused
    print(device.calls)  # how often it was asked for what

Each call of torch from Python is checked, run on the CPU, and what it makes is there, too. Not
pretended: CUDA's own random numbers, rounding, waiting, operators that it lacks, a second device.
"""

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
    """In place of torch.Generator. One on the device draws the CPU's numbers."""

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
    """Runs each function of torch on the CPU, if the device would have run it."""

    def __init__(self):
        super().__init__()
        self.calls, self.doubles = collections.Counter(), set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", str(function))
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        given = any(isinstance(x, There) for x in tensors)
        if name == "__iter__" and given:
            with self:
                return iter(args[0].unbind())
        if name in ("to", "cpu"):
            return self.move(name, *args, **kwargs)
        on_device = given
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type != "meta":
            on_device = torch.device(kwargs["device"]).type == "cuda"
            kwargs["device"] = "cpu"
        if (generator := kwargs.get("generator")) is not None:
            if getattr(generator, "there", False) != on_device:
                raise RuntimeError(f"{name}: the generator is on another device")
        if given:
            self.check(name, args, tensors)
        self.calls[name] += on_device
        made = function(*args, **kwargs)
        if on_device and not any(made is x for x in args[:1]):  # in place: it stays where it is
            made = tree_map(there, made)
            results = [x for x in tree_leaves(made) if isinstance(x, torch.Tensor)]
            self.doubles |= {name} if any(x.dtype == torch.float64 for x in results) else set()
        return made

    def move(self, name, x, *args, **kwargs):
        device, dtype, *_ = (
            torch._C._nn._parse_to(*args, **kwargs) if name == "to" else ("cpu", None)
        )
        was = isinstance(x, There)
        to = was if device is None else torch.device(device).type == "cuda"
        self.calls["to the CPU"] += was and not to
        made = (x if was == to else here(x).clone()).to(dtype or x.dtype)
        return there(made) if to else made

    @staticmethod
    def check(name, args, tensors):
        """Refuses CPU tensors among those on the device, but for numbers and places."""
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name in ("__getitem__", "__setitem__"):
            tensors = [args[0], *args[2:]]
            tensors += [] if isinstance(args[0], There) else [there(torch.empty(1))]
        mixed = [x for x in tensors if isinstance(x, torch.Tensor) and not isinstance(x, There)]
        if name not in ("copy_", "_has_compatible_shallow_copy_type") and any(
            x.dim() for x in mixed
        ):
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device")


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
