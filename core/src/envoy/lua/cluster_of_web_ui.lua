-- On 10904: which downstream cluster a web UI belongs to, by the path.
--
-- In:  the path (/prom/tokyo/graph); web_path, which may stand before it (paths.lua).
-- Out: the Envoy cluster (cluster/tokyo), or one that never exists.

function envoy_on_route(route_handle)
  local _, name = web_ui(route_handle:headers():get(":path") or "")
  if name then
    return "cluster/" .. name
  end
  return "nowhere"
end
