"""What the path of a request names."""

# What a path names.
cdef enum:
    TARGET_NONE = 0
    TARGET_PING = 1
    TARGET_DEFAULT = 2  # the one model that /invocations means
    TARGET_MODEL = 3
    TARGET_MANAGE = 4
    TARGET_LEGACY = 5           # a model, whose name is the first segment
    TARGET_API = 6              # a description of the API: for the supervisor, on both ports
    TARGET_EXECUTION = 7        # what batch transforms should send
    TARGET_LIVE = 8
    TARGET_READY = 9
    TARGET_CONSOLE = 10         # the console's page and its parts: the same for everybody, so without a token
    TARGET_TRY = 11             # a prediction that the console asks for, on the management port

# What a listening socket serves.
cdef enum:
    SURFACE_INFERENCE = 1
    SURFACE_MANAGEMENT = 2

INFERENCE = SURFACE_INFERENCE
MANAGEMENT = SURFACE_MANAGEMENT


cdef int find_target(HttpPath *path, const uint8_t *text, int surfaces) noexcept:
    """What of TARGET_* a path names on these surfaces; text: of its segments."""
    cdef int found = TARGET_NONE
    cdef bint is_managed
    if path.count == 0:
        return TARGET_API
    if path.count == 2 and segment_is(path, text, 0, b"health"):  # on both ports
        return (TARGET_LIVE if segment_is(path, text, 1, b"live") else
                TARGET_READY if segment_is(path, text, 1, b"ready") else TARGET_NONE)
    if path.count == 1:
        if segment_is(path, text, 0, b"invocations"):
            found = TARGET_DEFAULT
        elif segment_is(path, text, 0, b"ping"):
            found = TARGET_PING
        elif (segment_is(path, text, 0, b"models") or segment_is(path, text, 0, b"metrics")
              or segment_is(path, text, 0, b"overview") or segment_is(path, text, 0, b"drain")
              or segment_is(path, text, 0, b"settings")):
            found = TARGET_MANAGE
        elif segment_is(path, text, 0, b"console"):
            found = TARGET_CONSOLE
        elif segment_is(path, text, 0, b"execution-parameters"):
            found = TARGET_EXECUTION
        elif segment_is(path, text, 0, b"api-description"):
            return TARGET_API
    elif path.count == 2:
        if segment_is(path, text, 0, b"predictions"):
            found = TARGET_MODEL
        elif segment_is(path, text, 0, b"models"):
            found = TARGET_MANAGE
        elif segment_is(path, text, 1, b"predict"):
            found = TARGET_LEGACY
        elif segment_is(path, text, 0, b"console"):
            found = TARGET_CONSOLE
    elif path.count == 3:
        if segment_is(path, text, 0, b"models"):
            found = (TARGET_MODEL if segment_is(path, text, 2, b"invoke") else
                     TARGET_MANAGE if segment_is(path, text, 2, b"explain") else TARGET_NONE)
        elif segment_is(path, text, 0, b"console") and segment_is(path, text, 1, b"predict"):
            found = TARGET_TRY
    is_managed = found == TARGET_MANAGE or found == TARGET_CONSOLE or found == TARGET_TRY
    if not surfaces & (SURFACE_MANAGEMENT if is_managed else SURFACE_INFERENCE):
        found = TARGET_NONE
    return found


cdef inline bint segment_is(HttpPath *path, const uint8_t *text, int index, bytes name) noexcept:
    cdef HttpSpan *span = &path.segments[index]
    return (span.length == <uint32_t>PyBytes_GET_SIZE(name)
            and memcmp(text + span.offset, PyBytes_AS_STRING(name), span.length) == 0)


cdef str route_text(int target, uint32_t count):
    """What the path of a prediction, of so many segments, is a case of."""
    if target == TARGET_DEFAULT:
        return "/invocations"
    if target == TARGET_LEGACY:
        return "/{model_name}/predict"
    if target == TARGET_TRY:
        return "/console/predict/{model_name}"
    return "/models/{model_name}/invoke" if count == 3 else "/predictions/{model_name}"


cdef object name_of(int target, HttpPath *path, const uint8_t *text, bytes query):
    """The model that is asked for, as bytes; None where the default one is meant."""
    cdef HttpSpan *span
    if target != TARGET_DEFAULT:
        span = &path.segments[0 if target == TARGET_LEGACY else 2 if target == TARGET_TRY else 1]
        return PyBytes_FromStringAndSize(<const char *>text + span.offset, span.length)
    for pair in query.split(b"&") if query else ():
        if pair.startswith(b"model_name="):
            return unquote_to_bytes(pair[11:].replace(b"+", b" "))
    return None
