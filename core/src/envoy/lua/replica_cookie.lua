-- 11901, for web UIs: keeps a client on one replica. The route's hash policy chooses the replica by
-- the value of a cookie. A client without the cookie (Grafana, curl, a browser at first) gets one
-- made of its address, so it gets the same one each time. (Envoy can generate the cookie itself,
-- but from the connection, which is the hub's and so the same for many clients.)
--
-- In:  the path (/prom/tokyo/graph); the cookies; the client's address, as the hub's Envoy and the
--      proxies that it trusts have reported it. Variable: replica_cookie: the cookie's name.
-- Out: the cookie, in the request and, where it is new, in the response.

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
