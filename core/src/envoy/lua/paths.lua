-- Library: the paths of web UIs.
--
-- In:  web_path: the path of --web-url, "" or "/observability". It is "" in clusters, because the
--      hub's Envoy removes it.
-- Out: web_ui(path): the UI's base (/prom/tokyo), its cluster, and what follows the base; nothing
--      if the path is no UI's. web_path may stand before it or not.

local function web_ui(path)
  if web_path ~= "" and string.sub(path, 1, #web_path + 1) == web_path .. "/" then
    path = string.sub(path, #web_path + 1)
  end
  local kind, name, rest = string.match(path, "^/(%a+)/([^/?#]+)(.*)$")
  local is_ui = kind == "prom" or kind == "alertmanager"
  if is_ui and #name <= 63 and string.find(name, "^[a-z0-9][a-z0-9-]*$") then
    return "/" .. kind .. "/" .. name, name, rest
  end
end
