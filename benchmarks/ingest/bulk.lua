-- wrk: bulks of N events; a fresh id for each event costs the load tool more than the server,
-- so bodies are made beforehand and sent in turn.
local size = tonumber(os.getenv("EVENTS") or "1")
local key = os.getenv("KEY")
local bodies = {}
local number = 0

local function event()
  number = number + 1
  return string.format(
    '{"event_id":"w%d","event_name":"api_call","external_customer_id":"c%d",' ..
    '"timestamp":"2026-11-20T10:%02d:%02dZ","properties":{"region":"eu","tokens":"%d.5","model":"m-%d"}}',
    number, number % 1000, number % 60, (number * 7) % 60, number % 5000, number % 7)
end

function init(args)
  for index = 1, 50 do
    if size == 1 then
      bodies[index] = event()
    else
      local parts = {}
      for each = 1, size do parts[each] = event() end
      bodies[index] = '{"events":[' .. table.concat(parts, ",") .. "]}"
    end
  end
end

local turn = 0
function request()
  turn = turn % #bodies + 1
  local path = size == 1 and "/v1/events" or "/v1/events/bulk"
  return wrk.format("POST", path, {["x-api-key"] = key, ["content-type"] = "application/json"}, bodies[turn])
end

local bad = 0
function response(status) if status ~= 202 then bad = bad + 1 end end

function done(summary, latency, requests)
  local seconds = summary.duration / 1e6
  local wrong = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  print(string.format(
    "RESULT events %d requests/s %.0f events/s %.0f p50 %.1f p99 %.1f ms errors %d",
    size, summary.requests / seconds, summary.requests * size / seconds,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, wrong))
end
