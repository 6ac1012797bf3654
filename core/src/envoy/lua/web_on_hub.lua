-- 10904, for web UIs: filters what a downstream cluster, which isn't trusted, learns of the client,
-- and what its responses may do to the host that the web UIs of all clusters share.
--
-- In:  the path, with or without web_path (paths.lua). Variables: request_headers and
--      response_headers: the headers that pass, {names = {…}, prefixes = {…}}; cookies: the names
--      of the cookies that pass; replica_cookie: the name of Atlas's own (replica_cookie.lua).
-- Out: of a request: a relative redirect for /prom/tokyo; otherwise the headers and cookies that
--      pass, Atlas's own cookie, the UI's own cookies, no trailers.
--      Of a response: the headers that pass, cookies for the UI's path only, URLs below web_path
--      (below_web_path.lua), no trailers.
--      500 if this script fails.

-- The prefix of a UI's own cookies in the browser, so that they can't be taken for, or overwrite,
-- those of others on this host, such as the session of a proxy in front.
local ui_cookie = "atlas."
-- The attributes of a cookie that pass. Domain and Path don't.
local attributes = {
  ["expires"] = true, ["max-age"] = true, ["secure"] = true, ["httponly"] = true, ["samesite"] = true, ["partitioned"] = true,
}

local function passes(name, which)
  if which.names[name] or string.sub(name, 1, 1) == ":" then
    return true
  end
  for _, prefix in ipairs(which.prefixes) do
    if string.sub(name, 1, #prefix) == prefix then
      return true
    end
  end
  return false
end

local function remove_others(headers, which)
  local others = {}
  for name in pairs(headers) do
    if not passes(name, which) then
      others[name] = true
    end
  end
  for name in pairs(others) do
    headers:remove(name)
  end
end

-- A text without white space at its end. The pattern "^(.-)%s*$" would be quadratic in the white
-- space inside, and a client may send much of that.
local function trimmed(text)
  return string.match(text, "^(.*%S)") or ""
end

local function values(headers, name)
  local all = {}
  for index = 0, headers:getNumValues(name) - 1 do
    all[#all + 1] = headers:getAtIndex(name, index)
  end
  return all
end

-- The cookies of a request that a backend gets, by the names that it gave them.
local function cookies_that_pass(headers)
  local passed = {}
  for _, line in ipairs(values(headers, "cookie")) do
    for cookie in string.gmatch(line, "[^;]+") do
      local name, value = string.match(cookie, "^%s*([^%s=]+)%s*=%s*(.*)$")
      value = trimmed(value or "")
      if name and string.sub(name, 1, #ui_cookie) == ui_cookie and #name > #ui_cookie then
        passed[#passed + 1] = string.sub(name, #ui_cookie + 1) .. "=" .. value
      elseif name and (name == replica_cookie or cookies[name]) then
        passed[#passed + 1] = name .. "=" .. value
      end
    end
  end
  return passed
end

-- A Set-Cookie for the UI's path only; nil for one without a name.
local function confined(cookie, base)
  local pair, rest = string.match(cookie, "^([^;]*)(.*)$")
  local name, value = string.match(pair, "^%s*([^%s=]+)%s*=%s*(.*)$")
  if not name then
    return nil
  end
  -- Browsers accept a cookie with the prefix __Host- for the path / only.
  local keeps_name = name == replica_cookie or cookies[name] and string.lower(string.sub(name, 1, 7)) ~= "__host-"
  local parts = {(keeps_name and "" or ui_cookie) .. name .. "=" .. trimmed(value)}
  for attribute in string.gmatch(rest, "[^;]+") do
    local text = trimmed(string.match(attribute, "^%s*(.*)$"))
    if attributes[string.lower(string.match(text, "^([^%s=]*)"))] then
      parts[#parts + 1] = text
    end
  end
  parts[#parts + 1] = "Path=" .. web_path .. base
  return table.concat(parts, "; ")
end

local function remove_trailers(handle)
  local trailers = handle:trailers()
  local names = {}
  for name in pairs(trailers or {}) do
    names[name] = true
  end
  for name in pairs(names) do
    trailers:remove(name)
  end
end

local function ask(handle)
  local headers = handle:headers()
  local base, name, rest = web_ui(headers:get(":path") or "")
  if base and string.sub(rest, 1, 1) ~= "/" then
    -- Relative, because only the browser knows its URL's scheme, host, port and path.
    handle:respond({[":status"] = "308", ["location"] = name .. "/" .. rest}, "")
    return
  end
  local passed = base and cookies_that_pass(headers) or {}
  remove_others(headers, request_headers)
  headers:remove("cookie")
  if #passed > 0 then
    headers:add("cookie", table.concat(passed, "; "))
  end
  if base then
    handle:streamInfo():dynamicMetadata():set("atlas", "base", base)
  end
  remove_trailers(handle)
end

local function answer(handle)
  local headers = handle:headers()
  local asked = handle:streamInfo():dynamicMetadata():get("atlas")
  local base = asked and asked["base"]
  local set = base and values(headers, "set-cookie") or {}
  remove_others(headers, response_headers)
  headers:remove("set-cookie")
  for _, cookie in ipairs(set) do
    local right = confined(cookie, base)
    if right then
      headers:add("set-cookie", right)
    end
  end
  below_web_path(headers)
  remove_trailers(handle)
end

-- If a script fails, Envoy passes the headers on as they were. So failures are caught here.
function envoy_on_request(handle)
  local works, why = pcall(ask, handle)
  if not works then
    handle:logErr(tostring(why))
    handle:respond({[":status"] = "500"}, "Atlas: the script that looks at requests has failed; the log of the hub's Envoy says why.\n")
  end
end

function envoy_on_response(handle)
  local works, why = pcall(answer, handle)
  if not works then
    handle:logErr(tostring(why))
    local headers = handle:headers()
    headers:replace(":status", "500")
    headers:remove("set-cookie")
    headers:remove("location")
  end
end
