-- On 10904: an answer to a request that offered to become a WebSocket and didn't. Between Envoys, 200 would say that it has.
--
-- In:  the status, and x-atlas-plain-answer (websocket_answers_in_cluster.lua); the client's protocol.
-- Out: 200 for what has that header; 501 for any 200 to a client that speaks HTTP/2, to which 200 would say the same.

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get("x-atlas-plain-answer") then
    headers:remove("x-atlas-plain-answer")
    headers:replace(":status", "200")
  end
  -- To a client that speaks HTTP/2, too.
  if headers:get(":status") == "200" and handle:streamInfo():protocol() == "HTTP/2" then
    headers:replace(":status", "501")
  end
end
