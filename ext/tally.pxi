"""What is counted of each model's requests, and how it is told to whoever scrapes. See tally.h."""

cdef enum:
    TALLIES_MOST = 4096     # kept, also of models that are gone and have not been reported since


@cython.final
cdef class Tally:
    """The counts of one model, or of all that have none of their own. Exchanges hold on to it, whatever becomes of the route."""

    cdef TallyCounts counts
    cdef bint is_routed         # else it goes once it was reported

    cdef dict report(self):
        cdef TallyCounts *counts = &self.counts
        cdef int i
        statuses = {}
        for i in range(<int>(sizeof(known_statuses) // sizeof(known_statuses[0]))):
            if counts.statuses[i]:
                statuses[str(known_statuses[i])] = counts.statuses[i]
        for i in range(<int>STATUS_CLASSES):
            if counts.others[i]:
                statuses[f"{i}xx"] = counts.others[i]
        return {
            "statuses": statuses,
            "request_bytes": counts.request_bytes,
            "response_bytes": counts.response_bytes,
            "copied_bytes": counts.copied_bytes,
            "request_seconds": times_report(&counts.whole),
            "queue_seconds": times_report(&counts.queued),
            "compute_seconds": times_report(&counts.computed),
            "batch_rows": [counts.rows_sum, [counts.rows[i] for i in range(<int>ROW_BOUNDS + 1)]],
        }


cdef list times_report(const Times *times):
    cdef int i
    return [times.sum_ns, [times.buckets[i] for i in range(<int>TIME_BOUNDS + 1)]]


cdef class Tallies:
    """The tallies of a frontend: one for each model that the supervisor wants to be told of by name, one for the rest."""

    cdef dict by_name
    cdef Tally rest

    def __cinit__(self):
        self.by_name = {}
        self.rest = Tally.__new__(Tally)

    cdef Tally of(self, str name, bint is_named):
        cdef Tally tally
        if not is_named:
            return self.rest
        tally = self.by_name.get(name)
        if tally is None:
            if len(self.by_name) >= TALLIES_MOST:
                self.forget_unrouted()
            tally = self.by_name[name] = Tally.__new__(Tally)
        tally.is_routed = True
        return tally

    cdef int leave(self, str name) except -1:
        """The model is gone, or is not named any more."""
        cdef Tally tally = self.by_name.get(name)
        if tally is not None:
            tally.is_routed = False
        return 0

    cdef int forget_unrouted(self) except -1:
        self.by_name = {name: tally for name, tally in self.by_name.items() if (<Tally>tally).is_routed}
        return 0

    cdef dict report(self):
        """All counts by model, with the buckets' bounds. What is gone is told once more, and then forgotten."""
        cdef Tally tally
        models = {}
        for name, tally in self.by_name.items():
            models[name] = tally.report()
        self.forget_unrouted()
        return {
            "time_bounds_ns": [time_bounds_ns[i] for i in range(<int>TIME_BOUNDS)],
            "row_bounds": [1 << i for i in range(<int>ROW_BOUNDS)],
            "models": models,
            "rest": self.rest.report(),
        }
