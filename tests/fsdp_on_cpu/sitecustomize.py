"""On the PYTHONPATH of a test's torchrun, makes accelerate admit FSDP2 on CPU processes, and DeepSpeed start sooner.

accelerate looks at FSDP settings only where processes have accelerators; the sharding itself is torch's own and runs on
gloo. Python imports this file by its name, at the start of every process.
"""

import os
import sys

if "RANK" in os.environ and any("zero3" in argument for argument in sys.orig_argv):
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    # or DeepSpeed would compile, for a minute, an all-reduce that only its inference uses
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

if "RANK" in os.environ:  # a worker, not torchrun itself
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__

    def admit_fsdp(self, mixed_precision=None, cpu=False, *args, **kwargs):
        PartialState(cpu)
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        original(self, mixed_precision, cpu, *args, **kwargs)

    AcceleratorState.__init__ = admit_fsdp
