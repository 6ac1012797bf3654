-- 11901, for web UIs: the Host that a backend gets, and the URLs to which it redirects.
--
-- In:  the path (/prom/tokyo/graph); x-forwarded-host: the host that the browser asked for, added
--      by the hub's Envoy. Variable: uis, by base: {prefix = the backend's own path prefix,
--      names = {["host:port"] = true}: its hosts in lower case, asked_as_hub = whether it gets the
--      hub's Host, has_pages = whether it is a Prometheus}.
-- Out: the request's Host, if asked_as_hub. In the response Location, Content-Location and Refresh
--      are below the UI's base.

-- The pages to which Prometheus redirects, longest first. It puts the path of --web.external-url
-- before these, whatever its route prefix (web/web.go).
local pages = {
  "/alertmanager-discovery", "/service-discovery", "/classic/graph", "/tsdb-status", "/starting", "/targets", "/alerts",
  "/config", "/status", "/agent", "/flags", "/graph", "/query", "/rules",
}

-- The path of --web.external-url before one of these pages; "" if the request itself was below it.
local function external_path(path, asked)
  local whole = string.match(path, "^[^?#]*")
  local external = string.match(whole, "^(.-)/consoles/")
  for _, page in ipairs(pages) do
    if not external and string.sub(whole, -#page) == page then
      external = string.sub(whole, 1, -#page - 1)
    end
  end
  return external and external ~= "" and not under(asked, external) and external or ""
end

-- The host[:port] of a URL, and the rest; nil for a URL without a host.
local function split(url)
  local authority, rest = string.match(url, "^[hH][tT][tT][pP][sS]?://([^/?#\\]*)(.*)$")
  if not authority then
    authority, rest = string.match(url, "^//([^/?#\\]*)(.*)$")
  end
  return authority and string.lower(authority), rest
end

-- The last host of x-forwarded-host: the hub's Envoy added it, the others come from clients and
-- proxies.
local function last(hosts)
  local trimmed = string.match(hosts, "^(.*%S)") or ""
  local host = string.match(trimmed, "^.*[,%s](.*)$") or trimmed
  return host ~= "" and host or nil
end

-- Whether a host is the backend's, or one that the browser asked for.
local function is_own(authority, ui, hosts)
  if ui.names[authority] then
    return true
  end
  for host in string.gmatch(string.lower(hosts), "[^,%s]+") do
    if authority == host or authority == string.gsub(host, ":%d+$", "") then
      return true
    end
  end
  return false
end

local function corrected(url, base, asked, hosts)
  local ui = uis[base]
  local authority, path = split(url)
  if authority then
    if not is_own(authority, ui, hosts) then
      return url
    end
    if string.sub(path, 1, 1) ~= "/" then
      path = "/" .. path
    end
  elseif string.sub(url, 1, 1) == "/" then
    path = url
  else
    return url
  end
  if under(path, base) then
    return path
  end
  -- An external URL that ends in the UI's base, behind a path that a proxy before the hub adds.
  local at = string.find(string.match(path, "^[^?#]*") .. "/", base .. "/", 1, true)
  if at then
    return string.sub(path, at)
  end
  if ui.prefix ~= "" and under(path, ui.prefix) then
    return base .. string.sub(path, #ui.prefix + 1)
  end
  local external = ui.has_pages and external_path(path, ui.prefix .. asked) or ""
  return base .. string.sub(path, #external + 1)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local base, _, rest = web_ui(headers:get(":path") or "")
  if not base or not uis[base] then
    return
  end
  local hosts = headers:get("x-forwarded-host") or ""
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("atlas", "base", base)
  metadata:set("atlas", "asked", string.match(rest, "^[^?#]*"))
  metadata:set("atlas", "hosts", hosts)
  local host = uis[base].asked_as_hub and last(hosts)
  if host then
    headers:replace(":authority", host)
  end
end

function envoy_on_response(handle)
  local asked = handle:streamInfo():dynamicMetadata():get("atlas")
  if not asked or not asked["base"] then
    return
  end
  correct_urls(handle:headers(), function(url)
    return corrected(url, asked["base"], asked["asked"], asked["hosts"])
  end)
end
