-- 10904: responses that Envoy sends before it has chosen a route, and so without the script of the
-- route (web_on_hub.lua): redirects of paths with escaped slashes.
--
-- In:  the headers of a response; below_web_path (below_web_path.lua).
-- Out: the headers, with URLs below the path of --web-url.

function envoy_on_response(handle)
  below_web_path(handle:headers())
end
