-- On 10904: answers that Envoy gives before it has chosen a route, and with it the script that stands there: redirects of
-- paths with escaped slashes.
--
-- In:  an answer's headers.
-- Out: the same, below web_path (below_web_path.lua).

function envoy_on_response(handle)
  below_web_path(handle:headers())
end
