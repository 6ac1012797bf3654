-- On 10901: which downstream cluster a store belongs to, by the authority's first label.
--
-- In:  the authority (tokyo-thanos-sidecar0.sidecars.thanos.atlas:10901).
-- Out: the Envoy cluster (cluster/tokyo), or one that never exists.

function envoy_on_route(route_handle)
  local label = string.match(route_handle:headers():get(":authority") or "", "^[^.:]+") or ""
  local cluster = string.match(label, "^([a-z0-9][a-z0-9-]*)%-thanos%-sidecar%d%d?$")
  if cluster and #label <= 63 then
    return "cluster/" .. cluster
  end
  return "nowhere"
end
