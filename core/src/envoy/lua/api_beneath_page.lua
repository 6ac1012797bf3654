-- On 10904, for /api/v2/ at the root: a page of an Alertmanager may ask for it there, wherever the page itself hangs: the new ones
-- do, where Alertmanager's `ui/mantine-ui/src/data/api.ts` has an empty `pathPrefix`. The browser is sent to the same path beneath that
-- page's Alertmanager. A redirect, because whoever guards the hub's paths by cluster then sees the real one: a request at the root
-- never reaches any cluster, whatever its Referer says.
--
-- In:  the path, and the Referer: https://tools.example.com/observability/alertmanager/tokyo/.
-- Out: 307 to the path beneath /observability/alertmanager/tokyo; where the Referer names no such page, the request goes on, to the
--      route's own answer.

function envoy_on_request(handle)
  local headers = handle:headers()
  local page = string.match(headers:get("referer") or "", "^https?://[^/?#]+(/[^?#]*)")
  -- What a proxy before the hub puts in front of its paths, and the cluster.
  local front, name = string.match(page or "", "^(.-)/alertmanager/([a-z0-9][a-z0-9-]*)/")
  -- Two slashes at the start would name another host.
  if not name or string.find(front, "[^%w._~/-]") or string.find(front, "//", 1, true) then
    return
  end
  local location = front .. "/alertmanager/" .. name .. headers:get(":path")
  handle:respond({[":status"] = "307", ["location"] = location, ["cache-control"] = "no-store"}, "")
end
