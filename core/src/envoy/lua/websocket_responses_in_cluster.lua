-- 11901: tells the hub's Envoy that a backend has declined a WebSocket handshake (see
-- ../long_lived.rs).
--
-- In:  the status of a response; whether remove_websocket_offer.lua has made the request an
--      ordinary one, as it does for the hub's second attempt.
-- Out: second attempt: 299 and x-atlas-plain-answer in place of 200.
--      First attempt: 503 and x-atlas-websocket-declined in place of 2xx and 3xx.
--      A backend can send neither of these headers.

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(":status")
  local asked = handle:streamInfo():dynamicMetadata():get("atlas.websocket")
  headers:remove("x-atlas-plain-answer")
  headers:remove("x-atlas-websocket-declined")
  if asked and asked["plain"] then
    -- Between Envoys 200 would accept the WebSocket.
    if status == "200" then
      headers:add("x-atlas-plain-answer", "true")
      headers:replace(":status", "299")
    end
  elseif status ~= "101" and string.find(status, "^[23]") then
    -- Envoy has dropped the body and headers, so the hub's Envoy must ask again.
    headers:add("x-atlas-websocket-declined", "true")
    headers:replace(":status", "503")
  end
end
