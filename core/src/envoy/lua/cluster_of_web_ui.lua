-- 10904, cluster specifier: the downstream cluster of a web UI, by the path.
--
-- In:  the path (/prom/tokyo/graph); web_ui (paths.lua).
-- Out: the Envoy cluster (cluster/tokyo), or nowhere, which never exists.

function envoy_on_route(route_handle)
  local _, name = web_ui(route_handle:headers():get(":path") or "")
  if name then
    return "cluster/" .. name
  end
  return "nowhere"
end
