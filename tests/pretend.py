"""A pretend CUDA device: a tensor there holds data of the CPU, but says where it is, and mixes
with none that is not.

    with pretend.cuda() as device:
        x = torch.zeros(3, device="cuda")  # x.device is cuda:0, and x + torch.ones(3) is refused
    print(device.calls)  # how often it was asked for which operator

A tensor on the device is wrapped around one of the CPU. Each operator that really runs, beneath
autograd, is checked, and then run on what is wrapped.

Not pretended: CUDA's own random numbers, rounding, waiting, errors that it reports late, operators
that it lacks, a second device.
"""

import collections
import contextlib
import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
TAKE_PLACES = "index.Tensor", "index_put", "index_put_", "_index_put_impl_"  # from the CPU, too
TAKE_NUMBERS = "fill", "masked_fill", "index_put", "_index_put_impl"  # as pointwise operators do


class There(torch.Tensor):
    """A tensor on the device. Only Python believes that: for torch itself it is on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)

    @staticmethod
    def __new__(cls, data):
        how = dict(dtype=data.dtype, device=CPU)
        shape = data.shape, data.stride(), data.storage_offset()
        made = torch.Tensor._make_wrapper_subclass(cls, *shape, **how)
        made.data_here = data
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError("the pretend device is gone")

    def to(self, *args, **kwargs):
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if device is None or device.type == "cuda":
            return super().to(dtype or self.dtype)
        Device.now.calls["to the CPU"] += 1
        return self.detach().data_here.clone().to(dtype or self.dtype)

    def cpu(self):
        return self.to(CPU)

    def tolist(self):
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol):  # saved as a plain tensor
        return self.cpu().__reduce_ex__(protocol)


class Generator(torch._C.Generator):
    """torch.Generator. One on the device draws the CPU's numbers."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, device="cpu")

    def __init__(self, device="cpu"):
        if torch.device(device).type == "cuda":
            Device.now.generators[self._cdata] = self

    device = property(lambda self: CUDA if self._cdata in Device.now.generators else CPU)


def there(x):
    return There(x) if isinstance(x, torch.Tensor) and not isinstance(x, There) else x


def here(x):
    return x.data_here if isinstance(x, There) else x


@functools.cache
def composite(function):
    """Whether an operator is made up of others."""
    key = "CompositeImplicitAutograd"
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), key)


@functools.cache
def takes_numbers(function):
    """Whether CPU tensors of no dimensions may be among the arguments of this operator."""
    name = function._schema.name.split("::")[1].removesuffix("_")
    packet = getattr(torch.ops.aten, name, function.overloadpacket)
    kin = [getattr(packet, overload) for overload in packet.overloads()]
    return name in TAKE_NUMBERS or any(torch.Tag.pointwise in each.tags for each in kin)


class Device(TorchDispatchMode):
    """Runs each operator on the CPU, if the device would have run it."""

    now = None

    def __init__(self):
        super().__init__()
        self.calls, self.of_doubles, self.generators = collections.Counter(), set(), {}
        self.backward = False  # a backward pass, in which torch makes tensors for itself

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if composite(function):  # in inference mode these get here whole
            with self:
                return function.decompose(*args, **kwargs)
        name = str(function).removeprefix("aten.").removesuffix(".default")
        given = any(isinstance(x, There) for x in tree_leaves((args, kwargs)))
        if given:
            self.check(function, name, args, kwargs)
        device = CUDA if given or self.backward else CPU
        device = device if self.backward else kwargs.get("device") or device
        if (generator := kwargs.get("generator")) is not None:
            if (generator._cdata in self.generators) != (device.type == "cuda"):
                raise RuntimeError(f"{name}: Expected a '{device.type}' device type for generator")
        if device.type == "cuda":
            self.calls[name] += 1
            kwargs |= dict(device=CPU) if "device" in kwargs else {}
        made = function(*tree_map(here, args), **tree_map(here, kwargs))
        if any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in tree_leaves(made)):
            self.of_doubles |= {name} if device.type == "cuda" else set()
        if device.type != "cuda":
            return made
        made = tree_map(there, made)
        return return_and_correct_aliasing(function, args, kwargs, made) if given else made

    @staticmethod
    def check(function, name, args, kwargs):
        """Refuses CPU tensors among those on the device, but for numbers where they are allowed."""
        if name in ("copy_", "_to_copy"):
            return
        writes = [
            x.name for x in function._schema.arguments if x.alias_info and x.alias_info.is_write
        ]
        names = [x.name for x in function._schema.arguments]
        for argument, value in [*zip(names, args), *kwargs.items()]:
            if name in TAKE_PLACES and argument == "indices":
                continue
            for x in tree_leaves(value):
                if isinstance(x, torch.Tensor) and not isinstance(x, There):
                    if x.dim() or argument in writes or not takes_numbers(function):
                        raise RuntimeError(
                            f"{name}: Expected all tensors to be on the same device, but "
                            f"{argument} is on the CPU"
                        )


@contextlib.contextmanager
def cuda():
    def load_cpu(file, map_location=None, **more):
        saved = load(file, map_location="cpu", **more)
        return tree_map(lambda x: x.to(map_location) if isinstance(x, torch.Tensor) else x, saved)

    def grad(*args, **kwargs):
        device.backward = True
        try:
            return torch_grad(*args, **kwargs)
        finally:
            device.backward = False

    torch_grad, load, lifts = torch.autograd.grad, torch.load, torch._C._only_lift_cpu_tensors()
    with pytest.MonkeyPatch.context() as patch, Device() as device:
        patch.setattr(Device, "now", device)
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch, "load", load_cpu)
        patch.setattr(torch.autograd, "grad", grad)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        overwrite = "get_overwrite_module_params_on_conversion"  # else a weight loses its class
        patch.setattr(torch.__future__, overwrite, lambda: True)
        torch._C._ensureCUDADeviceGuardSet()
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` copies to a device visibly
        try:
            yield device
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts)
