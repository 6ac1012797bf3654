-- 11903: the hub's Alertmanagers as targets for Prometheus's HTTP service discovery. Each target is
-- the authority by which the client reached this Envoy.
--
-- In:  the authority. Variables: targets: the list as JSON, with AUTHORITY for the authority;
--      no_host: the authority of a request without Host.
-- Out: 200 with the list; 400 without Host. If the authority has other characters than a host and
--      port, the request goes on to the route's direct response.

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
