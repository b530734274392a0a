"""A pretend CUDA device: what asks for a GPU gets it, while the data stays where it is, on the CPU.

    with pretend.cuda() as gpu:
        x = torch.zeros(3, device="cuda")  # x.device is cuda:0, and x + torch.ones(3) is refused
        x.sum().item()
    print(gpu.table())                     # who waited for the device, where, how often

A tensor is on the device if its storage is marked, so that views share the mark. A function mode
sees what callers write: devices, generators, `.to`, `.numpy()`. A dispatch mode, beneath it and
beneath autograd, sees each operator that really runs: it marks what comes of marked tensors,
refuses to mix devices and counts synchronisations, also in a backward pass.

The CPU waits for the device where it needs to know a number or a size, and while memory is copied
to the device or from it: by `torch.tensor(x, device=...)`, for a list or a CPU tensor as an index,
for the number in x[index] = number (the latest versions of torch hand that over without a wait).

Not pretended: a second GPU, streams, pinned memory, mixed precision, cuDNN (it is off), CUDA's own
random numbers, rounding and order of additions, operators that CUDA lacks or that wait in ways of
their own (torch.linalg), errors that it reports late, who wins where an index is written twice, the
engine's check of a gradient's device, how many numbers of the CPU an operator takes. Of tensors in
`torch.tensor([x, y])` only one copy is counted. What a Python function of torch makes on its way
counts as made where its arguments are, whatever it asks for.
"""

import collections
import contextlib
import functools
import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FACTORIES = {
    getattr(torch, name)
    for name in (
        "arange empty empty_strided eye full linspace logspace ones rand randint randn randperm "
        "scalar_tensor zeros"
    ).split()
}


class Sync(NamedTuple):
    """kind: why the CPU waited. where: "file:line function"; chain: the functions around it."""

    kind: str
    where: str
    chain: tuple


# --------------------------------------------------------------------------------------------------
# Marks


def on_gpu(x):
    """Whether this tensor or storage claims to be on the device."""
    with torch._C.DisableTorchFunction():
        storage = x.untyped_storage() if isinstance(x, torch.Tensor) else x
        return getattr(storage, "on_gpu", False)


def put(x, gpu=True):
    """Marks x, which no one else may hold yet, as being on the device, or on the CPU."""
    with torch._C.DisableTorchFunction():
        storage = x.untyped_storage() if isinstance(x, torch.Tensor) else x
        storage.on_gpu = gpu
    return x


def asks_gpu(device):
    """Whether this device, as callers name it, is the pretend one."""
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type == "cuda" and device.index not in (None, 0):
        raise RuntimeError("CUDA error: invalid device ordinal")
    return device.type == "cuda"


def tensors(*found):
    """All tensors in a nest of lists, tuples and dictionaries."""
    kept = []
    for x in found:
        if isinstance(x, torch.Tensor):
            kept.append(x)
        elif isinstance(x, (list, tuple)):
            kept += tensors(*x)
        elif isinstance(x, dict):
            kept += tensors(*x.values())
    return kept


class Moved(torch.autograd.Function):
    """A copy on the other device; its gradient goes back to where x is."""

    @staticmethod
    def forward(context, x, gpu):
        context.gpu = on_gpu(x)
        return put(x.clone(), gpu)

    @staticmethod
    def backward(context, gradient):
        return put(gradient.clone(), context.gpu), None


class Generator(torch._C.Generator):
    """torch.Generator. One on the device draws the CPU's numbers; its state has CUDA's 16 bytes."""

    states = {}

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, device="cpu")
        self.gpu = asks_gpu(device)
        return self

    def __init__(self, device="cpu"):
        pass

    @property
    def device(self):
        return CUDA if self.gpu else CPU

    def get_state(self):
        state = super().get_state()
        if not self.gpu:
            return state
        digest = hashlib.md5(bytes(state.tolist())).digest()
        self.states[digest] = state
        return torch.tensor(list(digest), dtype=torch.uint8)

    def set_state(self, state):
        if on_gpu(state):
            raise TypeError("RNG state must be a torch.ByteTensor")
        if self.gpu:
            if state.numel() != 16:
                raise RuntimeError("RNG state is wrong size")
            state = self.states[bytes(state.tolist())]
        return super().set_state(state)


# --------------------------------------------------------------------------------------------------
# What the caller asks for


class Asked(TorchFunctionMode):
    """Answers what is asked about devices, and asks torch for the same on the CPU."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu
        tensor = torch.Tensor
        self.answers = {
            tensor.device.__get__: lambda x: CUDA if on_gpu(x) else tensor.device.__get__(x),
            tensor.is_cuda.__get__: on_gpu,
            tensor.is_cpu.__get__: lambda x: not on_gpu(x) and tensor.is_cpu.__get__(x),
            tensor.get_device: lambda x: 0 if on_gpu(x) else x.get_device(),
            tensor.to: self.to,
            tensor.cpu: lambda x, **more: self.to(x, device="cpu", **more),
            tensor.cuda: self.cuda,
            tensor.numpy: self.numpy,
            tensor.__array__: self.array,
            tensor.tolist: self.tolist,
            tensor.__repr__: self.repr,
            tensor.__deepcopy__: lambda x, memo: put(x.__deepcopy__(memo), on_gpu(x)),
            tensor.new_tensor: self.new_tensor,
            torch.tensor: self.tensor,
            torch.as_tensor: self.as_tensor,
            torch.asarray: self.as_tensor,
        }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in self.answers:
            return self.answers[func](*args, **kwargs)
        device = kwargs.get("device")
        if kwargs.get("generator") is not None:
            self.check_generator(kwargs["generator"], device, args)
        if device is not None:
            gpu, kwargs["device"] = asks_gpu(device), CPU if asks_gpu(device) else device
        self.gpu.calls.append(() if func in FACTORIES else (args, kwargs))
        try:
            out = func(*args, **kwargs)
        finally:
            self.gpu.calls.pop()
        if device is not None:
            for x in tensors(out):
                put(x, gpu)
        return out

    @staticmethod
    def device(x):
        return CUDA if on_gpu(x) else x.device

    def check_generator(self, generator, device, args):
        if device is None:
            device = next(map(self.device, tensors(args)), CPU)
        wanted = torch.device(device).type
        if generator.device.type != wanted:
            raise RuntimeError(
                f"Expected a '{wanted}' device type for generator "
                f"but found '{generator.device.type}'"
            )

    def to(self, x, *args, copy=False, **kwargs):
        other = args[0] if args else kwargs.get("other")
        if isinstance(other, torch.Tensor):
            device, dtype, non_blocking, layout = self.device(other), other.dtype, False, None
        else:
            device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
        dtype, layout = dtype or x.dtype, layout or torch.preserve_format
        gpu = on_gpu(x) if device is None else asks_gpu(device)
        if gpu != on_gpu(x):
            if gpu or not non_blocking:
                self.gpu.wait("copy to the device" if gpu else "copy to the CPU")
            x, copy = Moved.apply(x, gpu), False
        return x.to(dtype, copy=copy, memory_format=layout)

    def cuda(self, x, device="cuda", non_blocking=False, **more):
        return self.to(x, device=device, non_blocking=non_blocking, **more)

    def numpy(self, x, *, force=False):
        if on_gpu(x):
            if not force:
                raise TypeError(
                    "can't convert cuda:0 device type tensor to numpy. "
                    "Use Tensor.cpu() to copy the tensor to host memory first."
                )
            x = self.to(x.detach(), "cpu")
        return x.numpy(force=force)

    def array(self, x, *args, **kwargs):
        return self.numpy(x) if on_gpu(x) else x.__array__(*args, **kwargs)

    def tolist(self, x):
        if on_gpu(x):
            self.gpu.wait("tolist")
        return x.tolist()

    def repr(self, x, **more):
        if not on_gpu(x):
            return x.__repr__(**more)
        self.gpu.wait("print")
        return f"{x.__repr__(**more)[:-1]}, device='{CUDA}')"

    def new_tensor(self, x, data, *, dtype=None, device=None, **more):
        device, dtype = self.device(x) if device is None else device, dtype or x.dtype
        return self.made(torch.tensor, data, device, dict(more, dtype=dtype))

    def tensor(self, data, *, device=None, **more):
        return self.made(torch.tensor, data, device, more)

    def as_tensor(self, data, dtype=None, device=None, **more):
        if isinstance(data, torch.Tensor):
            return self.to(data, device=device, dtype=dtype)
        return self.made(torch.as_tensor, data, device, dict(more, dtype=dtype))

    def made(self, make, data, device, more):
        """A tensor of data from the CPU, or of one that is on the device."""
        there = isinstance(data, torch.Tensor) and on_gpu(data)
        gpu = there if device is None else asks_gpu(device)
        if gpu != there:
            self.gpu.wait("copy to the device" if gpu else "copy to the CPU")
        out = make(data, **more, **{} if gpu or device is None else dict(device=device))
        return put(out.clone().requires_grad_(out.requires_grad), True) if gpu else out


# --------------------------------------------------------------------------------------------------
# What really runs


WAITS = dict(
    _local_scalar_dense="item",
    nonzero="nonzero",
    masked_select="masked_select",
    equal="equal",
    bincount="bincount",
    _unique="unique",
    _unique2="unique",
    unique_dim="unique",
    unique_consecutive="unique",
    unique_dim_consecutive="unique",
)
INDEXED = "index", "index_put", "index_put_", "_index_put_impl_"
TAKE_NUMBERS = "fill", "fill_", "masked_fill", "masked_fill_"  # as pointwise operators do
MASKS = torch.bool, torch.uint8


class Facts(NamedTuple):
    """Of an operator.

    composite: it is made up of others. numbers: it takes CPU tensors of no dimensions, too.
    writes: arguments that it writes to. alias: it answers with some of its arguments, or views.
    """

    name: str
    composite: bool
    numbers: bool
    writes: tuple
    alias: bool


@functools.cache
def facts(func):
    schema, key = func._schema, "CompositeImplicitAutograd"
    name = schema.name.split("::")[1]
    kin = [
        getattr(packet, overload)
        for packet in (func.overloadpacket, out_of_place(name))
        for overload in packet.overloads()
    ]
    aliases = [each for each in schema.arguments if each.alias_info]
    return Facts(
        name,
        torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key),
        name in TAKE_NUMBERS or any(torch.Tag.pointwise in each.tags for each in kin),
        tuple(each.name for each in aliases if each.alias_info.is_write),
        any(each.alias_info for each in schema.returns),
    )


def out_of_place(name):
    """The operators named as this one, without the underscore of those that work in place."""
    plain = name[:-1] if name.endswith("_") and hasattr(torch.ops.aten, name[:-1]) else name
    return getattr(torch.ops.aten, plain)


def refuse(what):
    raise RuntimeError(
        "Expected all tensors to be on the same device, but found at least two "
        f"devices, cuda:0 and cpu! ({what})"
    )


class Checked(TorchDispatchMode):
    """Runs each operator on the CPU, if the device would have run it."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, known = kwargs or {}, facts(func)
        if known.composite:  # in inference mode these get here whole
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        given = tensors(args, kwargs)
        gpu = [on_gpu(x) for x in given]
        if any(gpu):
            if known.name in INDEXED:
                self.index(known.name, *args, **kwargs)
            elif known.name == "copy_":
                self.copy(*args, **kwargs)
            else:
                if not all(gpu):
                    self.check(func, known, args, kwargs)
                if known.name in WAITS:
                    self.gpu.wait(WAITS[known.name])
                elif known.name == "repeat_interleave" and kwargs.get("output_size") is None:
                    self.gpu.wait("repeat_interleave")
                elif known.name == "where" and not all(gpu):  # it copies the number
                    self.gpu.wait("number from the CPU")
        out = func(*args, **kwargs)
        if not known.alias:
            there = gpu or self.gpu.calls and map(on_gpu, tensors(self.gpu.calls[-1]))
            if there and any(there):  # what torch makes for itself is where its arguments are
                for x in tensors(out):
                    put(x)
        return out

    def check(self, func, known, args, kwargs):
        """Refuses CPU tensors among those on the device, but for numbers where they are allowed."""
        names = (argument.name for argument in func._schema.arguments)
        for name, value in [*zip(names, args), *kwargs.items()]:
            for x in tensors(value):
                number = x.dim() == 0 and known.numbers and name not in known.writes
                if not on_gpu(x) and not number:
                    refuse(f"{func}, {name}")

    def index(self, name, x, indices, values=None, accumulate=False, unsafe=False):
        """x[indices], or x[indices] = values: indices may be on the CPU, and values a number."""
        indices = [index for index in indices if index is not None]
        if not on_gpu(x) and any(map(on_gpu, indices)):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        number = False
        if values is not None and on_gpu(values) != on_gpu(x):
            number = values.dim() == 0 and on_gpu(x)
            if not number:
                refuse(f"{name}, values")
        masks = [index for index in indices if index.dtype in MASKS and on_gpu(index)]
        if number and not accumulate and len(indices) == len(masks) == 1:
            return  # it is masked_fill then
        for index in indices:
            if not on_gpu(index):
                self.gpu.wait("index from the CPU")
        for _ in masks:
            self.gpu.wait("boolean index")
        if number:
            self.gpu.wait("number from the CPU")

    def copy(self, x, source, non_blocking=False):
        if on_gpu(x) != on_gpu(source) and (on_gpu(x) or not non_blocking):
            self.gpu.wait("copy to the device" if on_gpu(x) else "copy to the CPU")


# --------------------------------------------------------------------------------------------------
# The device


class Gpu:
    """What happened on the device: `syncs`, in their order."""

    def __init__(self):
        self.syncs = []
        self.calls = []  # arguments of the torch functions under way

    def wait(self, kind):
        """Counts a synchronisation here."""
        chain, where, frame = [], "?", sys._getframe(1)
        while frame:
            if file := in_project(frame.f_code.co_filename):
                name = qualified(frame)
                if not chain:
                    where = f"{file}:{frame.f_lineno} {name}"
                chain.append(name)
            frame = frame.f_back
        self.syncs.append(Sync(kind, where, tuple(chain)))

    def table(self, syncs=None):
        """One line for each place that waits, for these of the `syncs`: how often, why, where."""
        syncs = self.syncs if syncs is None else syncs
        places = collections.Counter((sync.kind, sync.where) for sync in syncs).most_common()
        return "\n".join(f"{times:7,}  {kind:<20}  {where}" for (kind, where), times in places)


@functools.cache
def in_project(file):
    """The path of a source file under the project's folder; "" for this one and those of others."""
    path = Path(file).resolve()
    ours = path.parent == ROOT or path.parent.parent == ROOT and path.name != "pretend.py"
    return str(path.relative_to(ROOT)) if ours else ""


def qualified(frame):
    """The function's name with that of its class, which its code knows only since Python 3.11."""
    code = frame.f_code
    if hasattr(code, "co_qualname"):
        return code.co_qualname
    owner = frame.f_locals.get("self")
    return f"{type(owner).__name__}.{code.co_name}" if owner is not None else code.co_name


@contextlib.contextmanager
def cuda():
    """Within it, there is a CUDA device. Yields the `Gpu`."""
    gpu = Gpu()

    def tag(storage):
        if on_gpu(getattr(storage, "_untyped_storage", storage)):
            gpu.wait("save")
            return str(CUDA)

    def load(storage, location):
        if location.startswith("cuda") and asks_gpu(location):
            gpu.wait("load")
            return put(storage)

    packages = torch.serialization._package_registry
    with pytest.MonkeyPatch.context() as patch, torch.backends.cudnn.flags(enabled=False):
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "synchronize", lambda device=None: gpu.wait("synchronize"))
        patch.setattr(torch.serialization, "_package_registry", [(0, tag, load), *packages])
        with Checked(gpu), Asked(gpu):
            yield gpu
