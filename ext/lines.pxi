"""Requests that wait for a slot, in lines; turns.h has the rule."""


cdef class Lines:
    """A request has its place from the first time that it found no slot, whatever happens to its connection's other requests."""

    cdef Turns turns
    cdef list lines             # of each kind a heap of (place, Connection); those that left the line may still lie in it
    cdef uint64_t next_id       # of requests; places in line are numbers of the same series

    cdef int stand(self, Connection connection, int line, uint64_t place, uint64_t needed) except -1:
        """No slot for the connection's next request: it waits at the place that it has, or else at this one."""
        cdef Frontend frontend = connection.frontend
        if connection.place == 0:
            if place == self.next_id:
                self.next_id += 1
            connection.place = place
            connection.line = line
            connection.asked_ns = frontend.now_ns
            connection.is_in_head = False
            connection.deadline_ns = frontend.now_ns + frontend.body_timeout_ns
            heappush(self.lines[line], (place, connection))
        connection.needed_bytes = needed
        return self.find_head(line)

    cdef int leave_line(self, Connection connection) except -1:
        """It has its slot, or wants none any more."""
        if connection.place:
            connection.place = 0
            self.find_head(connection.line)
        return 0

    cdef int find_head(self, int line) except -1:
        cdef Connection connection
        cdef list heap = self.lines[line]
        cdef TurnHead *head = &self.turns.heads[line]
        head.place = TURN_NOBODY
        while heap:
            place, connection = heap[0]
            if connection.place == place:
                head.place = place
                head.needed_bytes = connection.needed_bytes
                return 0
            heappop(heap)
        return 0

    cdef Connection next_due(self, uint64_t after):
        """The oldest that may look for a slot now, of those whose places are beyond *after*. None: nobody may."""
        cdef TurnHead *head
        cdef TurnHead *found = NULL
        cdef int line
        cdef int chosen = 0
        for line in range(LINES):
            head = &self.turns.heads[line]
            if after < head.place < TURN_NOBODY and (found is NULL or head.place < found.place) and turns_is_due(
                    &self.turns, line, head.place, head.needed_bytes):
                found = head
                chosen = line
        return None if found is NULL else self.lines[chosen][0][1]

    cdef int count_incomplete(self, Connection connection, int line, uint64_t capacity) except -1:
        """What the connection's unfinished body holds from now on; 0: there is none."""
        self.turns.incomplete_bytes[connection.incomplete_line] -= connection.incomplete_bytes
        self.turns.incomplete_bytes[line] += capacity
        connection.incomplete_line = line
        connection.incomplete_bytes = capacity
        return 0
