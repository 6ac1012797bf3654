-- A page of an Alertmanager may ask for /api/v2/... from the root, wherever the page itself hangs: the new ones do, where
-- Alertmanager's `ui/mantine-ui/src/data/api.ts` has an empty `pathPrefix`. The browser is sent to the same path beneath
-- that page's Alertmanager. A redirect, because whoever guards the hub's paths by cluster then sees the real one: a
-- request at the root never reaches any cluster, whatever its Referer says.
function envoy_on_request(handle)
  local referer = handle:headers():get("referer") or ""
  -- What a proxy before the hub puts in front of its paths, and the cluster.
  local front, name = string.match(referer, "^https?://[^/?#]+([%w%._~/-]-)/alertmanager/([a-z0-9][a-z0-9-]*)/")
  -- Two slashes at the start would name another host.
  if not name or string.find(front, "//", 1, true) then
    return
  end
  local path = handle:headers():get(":path")
  handle:respond({[":status"] = "307", ["location"] = front .. "/alertmanager/" .. name .. path, ["cache-control"] = "no-store"}, "")
end
