-- 10904, for paths below /api/v2/: a page of an Alertmanager may ask for them at the root, whatever
-- the page's own path: pages made with an empty `pathPrefix` do (Alertmanager's
-- ui/mantine-ui/src/data/api.ts). The browser is redirected to the same path below the page's
-- Alertmanager. It is a redirect so that a proxy that controls access by path sees the real path: a
-- request for the root reaches no cluster, whatever its Referer.
--
-- In:  the path; the Referer (https://tools.example.com/observability/alertmanager/tokyo/).
-- Out: 307 to the path below /observability/alertmanager/tokyo. If the Referer is no such page, the
--      request goes on to the route's direct response.

function envoy_on_request(handle)
  local headers = handle:headers()
  local page = string.match(headers:get("referer") or "", "^https?://[^/?#]+(/[^?#]*)")
  -- The path that a proxy in front of the hub adds, and the cluster.
  local front, name = string.match(page or "", "^(.-)/alertmanager/([a-z0-9][a-z0-9-]*)/")
  -- Two slashes at the start would name another host.
  if not name or string.find(front, "[^%w._~/-]") or string.find(front, "//", 1, true) then
    return
  end
  local location = front .. "/alertmanager/" .. name .. headers:get(":path")
  handle:respond({[":status"] = "307", ["location"] = location, ["cache-control"] = "no-store"}, "")
end
