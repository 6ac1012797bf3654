-- Stands for Envoy's stream handle in tests: the methods of it that Atlas's scripts use
-- (envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/lua_filter).
--
-- In:  new_handle(headers, options): headers: a list of {name, value}; options: metadata, trailers
--      (a list like headers), chunks (of the body), id (the URI SAN of the client's certificate),
--      address (the client's), protocol, now (in ms), broken (whether getNumValues fails).
-- Out: the handle. handle.list holds its headers, handle.trailer_list its trailers,
--      handle.responded the arguments of respond, handle.logged the argument of logErr.

local function header_map(list, broken)
  local map = {}
  function map:get(name)
    local found = {}
    for _, entry in ipairs(list) do
      if entry[1] == name then
        found[#found + 1] = entry[2]
      end
    end
    return #found > 0 and table.concat(found, ",") or nil
  end
  function map:getNumValues(name)
    assert(not broken, "broken")
    local count = 0
    for _, entry in ipairs(list) do
      count = count + (entry[1] == name and 1 or 0)
    end
    return count
  end
  function map:getAtIndex(name, index)
    for _, entry in ipairs(list) do
      if entry[1] == name then
        if index == 0 then
          return entry[2]
        end
        index = index - 1
      end
    end
  end
  function map:remove(name)
    assert(not map.iterating, "Envoy: header map cannot be modified while iterating")
    for at = #list, 1, -1 do
      if list[at][1] == name then
        table.remove(list, at)
      end
    end
  end
  function map:add(name, value)
    assert(not map.iterating, "Envoy: header map cannot be modified while iterating")
    table.insert(list, {name, value})
  end
  function map:replace(name, value)
    for at, entry in ipairs(list) do
      if entry[1] == name then
        entry[2] = value
        return
      end
    end
    map:add(name, value)
  end
  return setmetatable(map, {__pairs = function()
    local at = 0
    map.iterating = true
    return function()
      at = at + 1
      if list[at] then
        return list[at][1], list[at][2]
      end
      map.iterating = false
    end
  end})
end

function new_handle(list, options)
  local metadata = options.metadata or {}
  local handle = {list = list, trailer_list = options.trailers, metadata = metadata}
  local headers, trailers = header_map(list, options.broken), options.trailers and header_map(options.trailers)
  function handle:headers() return headers end
  function handle:trailers() return trailers end
  function handle:bodyChunks()
    local at = 0
    return function()
      at = at + 1
      return options.chunks and options.chunks[at] and {setBytes = function(_, bytes) options.chunks[at] = bytes end}
    end
  end
  function handle:timestamp() return options.now end
  function handle:logErr(text) handle.logged = text end
  function handle:respond(answer, body)
    handle.responded = {headers = answer, body = body}
  end
  function handle:streamInfo()
    return {
      dynamicMetadata = function()
        return {
          get = function(_, filter) return metadata[filter] end,
          set = function(_, filter, key, value)
            metadata[filter] = metadata[filter] or {}
            metadata[filter][key] = value
          end,
        }
      end,
      protocol = function() return options.protocol or "HTTP/1.1" end,
      downstreamRemoteAddress = function() return options.address end,
      downstreamSslConnection = function()
        return options.id and {uriSanPeerCertificate = function() return {options.id} end}
      end,
    }
  end
  return handle
end
