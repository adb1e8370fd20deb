"""The platform's limits and where they are documented. Those that can be set are fields of Rules.

Sources, pages of the SageMaker developer guide unless said otherwise:
[invoke]    "Invoke a Multi-Model Endpoint"
[contract]  "Custom Containers Contract for Multi-Model Endpoints"
[hosting]   "Custom Inference Code with Hosting Services"
[work]      "How Multi-Model Endpoints Work"
[caching]   "Set SageMaker AI multi-model endpoint model caching behavior"
[remove]    "Add or Remove Models"
[api]       InvokeEndpoint, in the API reference
"""

from dataclasses import dataclass, field

from headrace import machine

BODY_MAX_BYTES = 6_291_456  # [api] of a request and of an answer
TARGET_MAX = 1024  # [api] characters of TargetModel
MESSAGE_MAX = 4096  # characters of a container's answer that an error repeats; SageMaker does not tell
# Ours, not the platform's, which spreads over instances what one process here has to hold.
INVOCATIONS_MAX = 256  # at a time
LOADS_MAX = 1024  # models waiting for their load
UNLOAD_S = 60.0
RESTART_S = (1.0, 30.0)  # pause before a restart, doubled each time that the container does not come into service


@dataclass(frozen=True, slots=True)
class Rules:
    """Times in seconds, sizes in bytes."""

    invocation_s: float = 60.0  # [hosting] [invoke] from arrival to answer, whatever has to be loaded for it
    load_s: float = 360.0  # [invoke] a download and load go on for so long when their request has been answered
    start_s: float = 480.0  # [hosting] eight minutes until /ping is answered 200
    ping_every_s: float = 5.0
    ping_s: float = 2.0  # [hosting] a ping's own time-out
    ping_failures: int = 3  # in a row; not documented
    stop_s: float = 30.0  # [hosting] from SIGTERM to SIGKILL
    disk_bytes: int = 10 << 30  # of unpacked models [work]
    memory_bytes: int = 0  # what MemoryUtilization is a part of; 0: the machine's
    is_caching: bool = True  # [caching] else a model is unloaded and deleted when it has answered
    loads_at_a_time: int = field(default_factory=machine.usable_cores)  # [caching] only says that vCPUs are a factor
