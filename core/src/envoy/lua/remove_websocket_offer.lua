-- 10904 and 11901, on routes that pass no WebSocket handshake on: the request goes on without it.
--
-- In:  a request with `Upgrade: websocket`. Envoy takes all bytes that follow it for those of the
--      WebSocket, whatever the headers say.
-- Out: the request without these headers and without a body. The bytes that follow are dropped:
--      behind a request that has ended, the server would read them as another request.
--      400 if the request has a body, because its end can't be found here.

-- Methods whose requests have a body unless content-length is 0. (Envoy has removed
-- transfer-encoding.)
local with_body = {["POST"] = true, ["PUT"] = true, ["PATCH"] = true}

function envoy_on_request(handle)
  local headers = handle:headers()
  local length = headers:get("content-length") or with_body[headers:get(":method")] and "unknown" or "0"
  if length ~= "0" then
    local why = "A request with a body can't offer to become a WebSocket: remove its header Upgrade (in a proxy in front, perhaps).\n"
    handle:respond({[":status"] = "400", ["content-type"] = "text/plain"}, why)
    return
  end
  headers:remove("upgrade")
  headers:remove("connection")
  -- The stream stays open like a WebSocket's. Without a length the server would wait for its end.
  headers:replace("content-length", "0")
  handle:streamInfo():dynamicMetadata():set("atlas.websocket", "plain", true)
  for chunk in handle:bodyChunks() do
    -- Envoy also sets content-length to 0 here.
    chunk:setBytes("")
  end
end
