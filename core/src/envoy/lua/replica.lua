-- On 11901, for web UIs: keeps a client on one replica. The value of a cookie decides (a hash policy of the route). Who brings none
-- (Grafana, curl, a person's first request) gets one made of their address, so the same one each time.
-- Envoy's own cookies of this kind are made from the connection, which is the hub's and so the same for many people.
--
-- In:  the path (/prom/tokyo/graph), the cookies, the client's address, as the hub's Envoy and the proxies that it trusts have said;
--      replica_cookie: its name, set by the line before these.
-- Out: the cookie, in the request and, where it is new, in the answer.

function envoy_on_request(handle)
  local headers = handle:headers()
  local base = headers:get(":path"):match("^/%a+/[%w.-]+")
  local cookies = headers:get("cookie") or ""
  if base == nil or ("; " .. cookies):find("; ?" .. replica_cookie:gsub("%-", "%%-") .. "=[%w-]") then
    return
  end
  local value = (handle:streamInfo():downstreamRemoteAddress() or ""):gsub(":%d+$", ""):gsub("[^%w]+", "-"):sub(1, 45)
  if value == "" then
    return
  end
  headers:replace("cookie", cookies == "" and replica_cookie .. "=" .. value or cookies .. "; " .. replica_cookie .. "=" .. value)
  handle:streamInfo():dynamicMetadata():set("atlas.replica", "cookie", replica_cookie .. "=" .. value .. "; Path=" .. base .. "; HttpOnly")
end

function envoy_on_response(handle)
  local new = handle:streamInfo():dynamicMetadata():get("atlas.replica")
  if new ~= nil and new.cookie ~= nil then
    handle:headers():add("set-cookie", new.cookie)
  end
end
