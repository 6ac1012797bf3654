-- 10903, before the body of a post is read: limits the posts that one downstream cluster has under
-- way to one Alertmanager on this worker thread. So no cluster uses up what the others need, and an
-- Alertmanager that doesn't answer takes nothing from the other ones.
--
-- In:  the client certificate's SPIFFE ID, which names the cluster; the path, which names the
--      Alertmanager; content-length. Variables: most_posts, most_bytes: the limits;
--      longest_post_bytes: the size of a post without content-length; longest_ms: how long a post
--      is counted at most, because no response comes if the client closes the connection.
-- Out: 429 where a limit is reached; otherwise nothing changes.

local posts_of = {} -- by cluster and Alertmanager: posts by number, each {expires = ms, bytes = number}
local last_post = 0

local function share_of(handle)
  local ssl = handle:streamInfo():downstreamSslConnection()
  local id = ssl and ssl:uriSanPeerCertificate()[1] or ""
  local index = string.match(handle:headers():get(":path") or "", "^/alertmanager/(%d+)/") or ""
  return (string.match(id, "/cluster/([^/]+)/") or id) .. " " .. index
end

function envoy_on_request(handle)
  if handle:headers():get(":method") ~= "POST" then
    return
  end
  local share = share_of(handle)
  local posts = posts_of[share] or {}
  local now = handle:timestamp()
  local count, bytes = 0, 0
  for number, post in pairs(posts) do
    if post.expires <= now then
      posts[number] = nil
    else
      count, bytes = count + 1, bytes + post.bytes
    end
  end
  local size = tonumber(handle:headers():get("content-length") or "") or longest_post_bytes
  if count >= most_posts or (count > 0 and bytes + size > most_bytes) then
    posts_of[share] = count > 0 and posts or nil
    handle:respond({[":status"] = "429"}, "Atlas: this cluster has too many posts of alerts under way.\n")
    return
  end
  last_post = last_post + 1
  posts[last_post] = {expires = now + longest_ms, bytes = size}
  posts_of[share] = posts
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("atlas.share", "share", share)
  metadata:set("atlas.share", "post", tostring(last_post))
end

function envoy_on_response(handle)
  local metadata = handle:streamInfo():dynamicMetadata():get("atlas.share")
  local posts = metadata and metadata["post"] and posts_of[metadata["share"]]
  if posts then
    posts[tonumber(metadata["post"])] = nil
    if next(posts) == nil then
      posts_of[metadata["share"]] = nil
    end
  end
end
