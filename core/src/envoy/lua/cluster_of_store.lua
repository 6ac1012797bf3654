-- 10901, cluster specifier: the downstream cluster of a store, by the first label of the authority.
--
-- In:  the authority (tokyo-thanos-sidecar0.sidecars.thanos.atlas:10901).
-- Out: the Envoy cluster (cluster/tokyo), or nowhere, which never exists.

function envoy_on_route(route_handle)
  local label = string.match(route_handle:headers():get(":authority") or "", "^[^.:]+") or ""
  local cluster = string.match(label, "^([a-z0-9][a-z0-9-]*)%-thanos%-sidecar%d%d?$")
  if cluster and #label <= 63 then
    return "cluster/" .. cluster
  end
  return "nowhere"
end
