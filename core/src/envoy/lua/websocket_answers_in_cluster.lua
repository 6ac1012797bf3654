-- On 11901: what the hub's Envoy hears of a backend that has declined to become a WebSocket.
--
-- In:  whether offer_removed.lua has removed the offer, as it does where the hub asks again; the answer's status.
-- Out: 299 and x-atlas-plain-answer for 200 without the offer; 503 and x-atlas-websocket-declined for 2xx and 3xx with it; neither of
--      these headers from a backend.

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
