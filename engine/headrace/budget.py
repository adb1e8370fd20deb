"""The books of the memory budget: what is measured, what it is charged to, what loads under way may still take.

    limit = reserve + processes of workers + shared weights + others + free
                      max(measured, level + reservations)

Plain bookkeeping: no I/O, no clock. The *level* of a worker is what it takes without the loads under way: what was
measured, and what has been loaded since. A *reservation* is an estimate of what a load under way will take; a *charge*
is what a replica's load took, and tells what its eviction may free. The measurement rules: charges add up to more or
less than it, since allocators keep and reuse pages.

Invariants
1. used_bytes is never below what was measured last, nor below what was measured and loaded since with all reservations.
2. reserve() leaves used_bytes within capacity_bytes, or raises and changes nothing.
3. Each reservation ends once: settled, cancelled, or forgotten with its worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.errors import OutOfMemory
from headrace.units import about_size

RESERVE_SHARE = (
    0.03  # for what nobody is charged for: page tables take 0.2 % (8 bytes a page), sockets and slabs the rest
)
RESERVE_MOST = 256 << 20


@dataclass(slots=True)
class _Ledger:
    """One worker's process. charges: model index -> bytes; charged: their sum."""

    measured: int = 0
    level: int = 0
    charges: dict[int, int] = field(default_factory=dict)
    charged: int = 0
    reserved: int = 0
    reservations: int = 0

    def used(self) -> int:
        return max(self.measured, self.level + self.reserved)

    def base(self) -> int:
        return max(0, self.level - self.charged)


@dataclass(slots=True, eq=False)
class Reservation:
    """Room for one replica of a model. ledger: of the worker whose memory it will be, None as long as that is open;
    may_evict: whether others go when the load takes more."""

    bytes: int
    ledger: _Ledger | None = None
    is_open: bool = True
    may_evict: bool = True


class Budget:
    """limit_bytes: for all processes together."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit(limit_bytes)
        self._ledgers: dict[int, _Ledger] = {}
        self._others = 0
        self._shared: dict[int, int] = {}  # model index -> bytes that its replicas have in common
        self._unplaced = 0  # reservations whose worker is not chosen yet

    def limit(self, limit_bytes: int) -> None:
        """All processes together may take so much from now on; what is beyond that stays until somebody evicts it."""
        self.limit_bytes = limit_bytes
        self.capacity_bytes = limit_bytes - min(RESERVE_MOST, int(limit_bytes * RESERVE_SHARE))

    @property
    def used_bytes(self) -> int:
        processes = sum(ledger.used() for ledger in self._ledgers.values())
        return self._others + self._unplaced + processes + sum(self._shared.values())

    @property
    def free_bytes(self) -> int:
        """What a load may take; negative when more is used than should be."""
        return self.capacity_bytes - self.used_bytes

    @property
    def measured_bytes(self) -> int:
        return self._others + sum(ledger.measured for ledger in self._ledgers.values()) + sum(self._shared.values())

    @property
    def charged_bytes(self) -> int:
        return sum(ledger.charged for ledger in self._ledgers.values()) + sum(self._shared.values())

    @property
    def reserved_bytes(self) -> int:
        return self._unplaced + sum(ledger.reserved for ledger in self._ledgers.values())

    @property
    def empty_bytes(self) -> int:
        """What a load could take at most, were no other model there."""
        return self.capacity_bytes - self._others - sum(ledger.base() for ledger in self._ledgers.values())

    def base_of(self, worker: int) -> int:
        """What the worker has beyond its models' charges."""
        return self._ledger(worker).base()

    def models_on(self, worker: int) -> int:
        """How many models it has or is about to get."""
        ledger = self._ledger(worker)
        return len(ledger.charges) + ledger.reservations

    def is_loading(self, worker: int) -> bool:
        """Whether a load is under way on it."""
        return self._ledger(worker).reservations > 0

    def charge_of(self, model: int) -> int:
        """What all replicas of the model are charged, with what they have in common."""
        return sum(ledger.charges.get(model, 0) for ledger in self._ledgers.values()) + self.shared_of(model)

    def shared_of(self, model: int) -> int:
        """What the model's replicas have in common."""
        return self._shared.get(model, 0)

    def share(self, model: int, bytes: int) -> None:
        """What the model's replicas have in common is so much now; 0: it is gone."""
        if bytes:
            self._shared[model] = bytes
        else:
            self._shared.pop(model, None)

    def charges_of(self, model: int) -> dict[int, int]:
        """What each replica of the model is charged, by worker."""
        return {worker: ledger.charges[model] for worker, ledger in self._ledgers.items() if model in ledger.charges}

    def measured_of(self, worker: int) -> int:
        """What the worker's process took when it was last measured."""
        ledger = self._ledgers.get(worker)
        return ledger.measured if ledger is not None else 0

    def reserve(self, bytes: int) -> Reservation:
        """Room for a load whose worker is not chosen yet. Raises OutOfMemory when there is none."""
        if bytes > self.free_bytes:
            raise OutOfMemory(f"needs {about_size(bytes)}, {about_size(max(0, self.free_bytes))} free")
        return self.insist(bytes)

    def insist(self, bytes: int) -> Reservation:
        """The same without asking whether there is room: for what has to come back, such as after a worker's death."""
        self._unplaced += bytes
        return Reservation(bytes)

    def place(self, reservation: Reservation, worker: int) -> None:
        """Note whose memory it will be."""
        if reservation.is_open and reservation.ledger is None:
            self._unplaced -= reservation.bytes
            reservation.ledger = self._ledger(worker)
            reservation.ledger.reserved += reservation.bytes
            reservation.ledger.reservations += 1

    def settle(self, reservation: Reservation, model: int, bytes: int) -> None:
        """The load has ended and really took *bytes*, which its model is charged from now on."""
        ledger = reservation.ledger
        assert ledger is not None, "a load ends on a worker"
        if self.cancel(reservation):
            ledger.charged += bytes - ledger.charges.get(model, 0)
            ledger.charges[model] = bytes
            ledger.level += bytes

    def cancel(self, reservation: Reservation) -> bool:
        """The load takes nothing any more. False when it had ended already."""
        if not reservation.is_open:
            return False
        reservation.is_open = False
        if reservation.ledger is None:
            self._unplaced -= reservation.bytes
        else:
            reservation.ledger.reserved -= reservation.bytes
            reservation.ledger.reservations -= 1
        return True

    def release(self, worker: int, model: int) -> None:
        """The model's replica on that worker is gone."""
        ledger = self._ledgers.get(worker)
        if ledger is not None:
            ledger.charged -= ledger.charges.pop(model, 0)

    def forget(self, worker: int) -> None:
        """The worker's process is gone, and all it had."""
        self._ledgers.pop(worker, None)

    def measure(self, workers: Mapping[int, int], others: int) -> None:
        """Take a measurement: bytes of each worker that runs, and of everything else together."""
        self._others = others
        for worker, measured in workers.items():
            ledger = self._ledger(worker)
            ledger.measured = measured
            # What it has grown by is taken for the half-done loads', as far as they have room reserved.
            ledger.level = max(min(ledger.level, measured), measured - ledger.reserved)

    def _ledger(self, worker: int) -> _Ledger:
        return self._ledgers.setdefault(worker, _Ledger())
