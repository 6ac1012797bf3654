-- Keeps a person on one replica of a web UI: the value of a cookie decides (a hash policy of the route), and who has none gets one.
-- Envoy's own cookies of this kind are made from the connection, which is the hub's and so the same for many people.

local COOKIE = "atlas-replica"

function envoy_on_request(handle)
  local headers = handle:headers()
  local base = headers:get(":path"):match("^/%a+/[%w.-]+")
  local cookies = headers:get("cookie") or ""
  if base == nil or ("; " .. cookies):find("; ?" .. COOKIE:gsub("%-", "%%-") .. "=[%w-]") then
    return
  end
  local value = (headers:get("x-request-id") or ""):gsub("[^%w-]", ""):sub(1, 36)
  if value == "" then
    return
  end
  headers:replace("cookie", cookies == "" and COOKIE .. "=" .. value or cookies .. "; " .. COOKIE .. "=" .. value)
  handle:streamInfo():dynamicMetadata():set("atlas.replica", "cookie", COOKIE .. "=" .. value .. "; Path=" .. base .. "; HttpOnly")
end

function envoy_on_response(handle)
  local new = handle:streamInfo():dynamicMetadata():get("atlas.replica")
  if new ~= nil and new.cookie ~= nil then
    handle:headers():add("set-cookie", new.cookie)
  end
end
