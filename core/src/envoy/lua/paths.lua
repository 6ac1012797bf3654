-- Whose a path is, for the scripts that stand behind this one.
--
-- In: web_path: the path of --web-url, "" or "/observability"; a cluster's Envoy never sees it, and has "".

-- Of a path at 10904, with or without web_path: the web UI's base (/prom/tokyo), its cluster, and what follows the base.
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
