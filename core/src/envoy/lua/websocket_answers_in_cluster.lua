-- What the hub's Envoy hears of a backend that has declined to become a WebSocket.
function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(":status")
  local asked = handle:streamInfo():dynamicMetadata():get("atlas.websocket")
  headers:remove("x-atlas-plain-answer")
  headers:remove("x-atlas-websocket-declined")
  if asked and asked["plain"] then
    -- The offer was removed here, and 200 between Envoys would be a WebSocket.
    if status == "200" then
      headers:add("x-atlas-plain-answer", "true")
      headers:replace(":status", "299")
    end
  elseif status ~= "101" and string.find(status, "^[23]") then
    -- Envoy has thrown its body and headers away: the hub asks again, without the offer.
    headers:add("x-atlas-websocket-declined", "true")
    headers:replace(":status", "503")
  end
end
