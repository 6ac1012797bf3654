-- On 10903, before the body of a post is read: what one downstream cluster may have under way on this worker thread, so that
-- no cluster takes what the others need.
--
-- In:  the client's certificate (its SPIFFE ID names the cluster), content-length;
--      most_posts, most_bytes, longest_post_bytes, longest_ms: set by the lines before these.
-- Out: 429 where the cluster's share is used up; otherwise nothing changes.
--
-- A post counts until its answer, or, where none comes since the client has gone, for longest_ms.

local posts_of = {} -- by cluster: posts by number, each {expires = ms, bytes = number}
local last_post = 0

local function cluster_of(handle)
  local ssl = handle:streamInfo():downstreamSslConnection()
  local id = ssl and ssl:uriSanPeerCertificate()[1] or ""
  return string.match(id, "/cluster/([^/]+)/") or id
end

function envoy_on_request(handle)
  if handle:headers():get(":method") ~= "POST" then
    return
  end
  local cluster = cluster_of(handle)
  local posts = posts_of[cluster] or {}
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
    posts_of[cluster] = count > 0 and posts or nil
    handle:respond({[":status"] = "429"}, "Atlas: this cluster has too many posts of alerts under way.\n")
    return
  end
  last_post = last_post + 1
  posts[last_post] = {expires = now + longest_ms, bytes = size}
  posts_of[cluster] = posts
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("atlas.share", "cluster", cluster)
  metadata:set("atlas.share", "post", tostring(last_post))
end

function envoy_on_response(handle)
  local share = handle:streamInfo():dynamicMetadata():get("atlas.share")
  local posts = share and share["post"] and posts_of[share["cluster"]]
  if posts then
    posts[tonumber(share["post"])] = nil
    if next(posts) == nil then
      posts_of[share["cluster"]] = nil
    end
  end
end
