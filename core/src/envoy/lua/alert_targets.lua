-- On 11903: the targets as Prometheus HTTP service discovery; each is the authority by which this Envoy was asked.
--
-- In:  the authority; targets, a JSON text with AUTHORITY in its place, and no_host, the authority of who named none: set by the
--      lines before these.
-- Out: 200 with that text, or 400; where the authority is none, the request goes on, to the route's own answer.

function envoy_on_request(handle)
  local authority = handle:headers():get(":authority") or ""
  if authority == no_host then
    handle:respond({[":status"] = "400"}, "Each target is the name by which this Envoy is asked: send a Host header.\n")
    return
  end
  if not string.find(authority, "^[%w%.%-_:%[%]]+$") then
    return
  end
  local body = string.gsub(targets, "AUTHORITY", authority)
  handle:respond({[":status"] = "200", ["content-type"] = "application/json"}, body)
end
