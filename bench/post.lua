-- wrk's part: posts one body over and over, and says what came of it in one line of JSON.
-- Usage: wrk ... -s post.lua URL -- BODY_FILE [NAME VALUE] ...
-- Without a request() of ours wrk sends the same prepared bytes each time, at no cost in Lua.

function init(args)
   local file = assert(io.open(args[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*a")
   file:close()
   for index = 2, #args, 2 do
      wrk.headers[args[index]] = args[index + 1]
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   print(string.format(
      'RESULT {"requests": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "p999_us": %d, "max_us": %d, '
         .. '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}',
      summary.requests, summary.duration, summary.bytes,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max,
      errors.connect, errors.read, errors.write, errors.status, errors.timeout
   ))
end
