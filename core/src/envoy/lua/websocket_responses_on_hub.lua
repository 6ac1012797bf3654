-- 10904: the response to a WebSocket handshake that a backend has declined (see ../long_lived.rs).
--
-- In:  the status; the client's protocol; x-atlas-plain-answer, a header that
--      websocket_responses_in_cluster.lua adds.
-- Out: 200 for a response with that header. 501 in place of 200 for a client that speaks HTTP/2,
--      for which 200 would accept the WebSocket.

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get("x-atlas-plain-answer") then
    headers:remove("x-atlas-plain-answer")
    headers:replace(":status", "200")
  end
  if headers:get(":status") == "200" and handle:streamInfo():protocol() == "HTTP/2" then
    headers:replace(":status", "501")
  end
end
