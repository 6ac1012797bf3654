-- On 10904: redirects lead below the path that a proxy in front may have taken away.
--
-- In:  an answer's headers; web_path (paths.lua).
-- Out: the same, with web_path before each path that lacks it.

local function below_web_path(headers)
  correct_urls(headers, function(url)
    local is_path = string.sub(url, 1, 1) == "/" and string.sub(url, 1, 2) ~= "//"
    return is_path and not under(url, web_path) and web_path .. url or url
  end)
end
