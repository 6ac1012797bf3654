-- Library: URLs in the headers of a response.
--
-- Out: under(path, base): whether a path is the base or lies below it.
--      correct_urls(headers, correct): applies the function `correct` to each URL.

local function under(path, base)
  return string.sub(path, 1, #base) == base and string.find(path, "^[/?#]", #base + 1) ~= nil or path == base
end

local function correct_urls(headers, correct)
  for _, name in ipairs({"location", "content-location"}) do
    local url = headers:get(name)
    local right = url and correct(url)
    if right and right ~= url then
      headers:replace(name, right)
    end
  end
  -- Refresh: 5; url=/login
  local refresh = headers:get("refresh")
  local time = string.match(refresh or "", "^%s*(.*)$")
  local before, url = string.match(time, "^([%d.]*%s*[;,]%s*[uU][rR][lL]%s*=%s*)(.*)$")
  if url then
    local quote, quoted = string.match(url, "^([\"'])(.-)[\"']%s*$")
    local right = correct(quoted or url)
    if right ~= (quoted or url) then
      headers:replace("refresh", before .. (quote or "") .. right .. (quote or ""))
    end
  end
end
