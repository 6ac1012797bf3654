-- Library for scripts of 10904: puts the path of --web-url before the URLs in a response, because a
-- proxy in front of the hub may have removed it from the request.
--
-- In:  web_path (paths.lua), correct_urls (urls.lua).
-- Out: below_web_path(headers): changes the headers of a response.

local function below_web_path(headers)
  correct_urls(headers, function(url)
    local is_path = string.sub(url, 1, 1) == "/" and string.sub(url, 1, 2) ~= "//"
    return is_path and not under(url, web_path) and web_path .. url or url
  end)
end
