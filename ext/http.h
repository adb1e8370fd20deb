/* HTTP/1.1 requests as bytes: heads, chunked bodies, paths. No I/O, no memory of its own, no Python.
 *
 *   http_parse_head   request line and field lines, up to and including the blank line
 *   http_chunks_next  a chunked body, piece by piece
 *   http_split_path   a target's path as decoded segments
 *   http_next_field   walks over the field lines of an accepted head
 *   http_field_ok     may this field go out in an answer?
 *
 * The caller owns all memory: a byte buffer, a zeroed HttpScan or HttpChunks that says how far one has come, and an HttpHead
 * for the result. Positions are offsets from the start of the buffer, so it may move between two calls.
 *
 * Invariants
 * 1. Nothing is guessed. What the grammar of RFC 9112 does not have is refused, and what is accepted is framed in only one way.
 * 2. Each byte is judged once, in order, by a state and a class. So the outcome does not depend on where the input was split,
 *    feeding it byte by byte costs the same, and a refusal comes with the first byte that earns it or with the end of its line.
 * 3. No byte at or past `len` is read, and no more than `max_head` bytes are ever wanted.
 * 4. No length taken from the input is added up or used as an index before it was compared with its limit.
 *
 * Source of the rules: RFC 9110 (fields, Accept, Expect), RFC 9112 (framing), RFC 3986 (hosts, escapes).
 */
#ifndef HEADRACE_HTTP_H
#define HEADRACE_HTTP_H

#include "http_chunks.h"
#include "http_head.h"
#include "http_path.h"

#endif
