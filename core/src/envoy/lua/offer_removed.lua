-- An offer of a WebSocket on a route that passes none on: the request goes on as if the offer weren't there.
--
-- In:  any request under an offer, of which Envoy takes all bytes that follow for the WebSocket's, whatever the headers say.
-- Out: the same without offer and body, and none of these bytes: behind a request that has ended they would be another one.
--      A request that says it has a body is refused, since nothing here could find the body's end.

-- These have a body unless they say that its length is 0: Envoy has removed Transfer-Encoding.
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
  -- Its end never comes, as a WebSocket's doesn't, and a server would wait for it.
  headers:replace("content-length", "0")
  handle:streamInfo():dynamicMetadata():set("atlas.websocket", "plain", true)
  for chunk in handle:bodyChunks() do
    -- This also says content-length: 0 once more.
    chunk:setBytes("")
  end
end
