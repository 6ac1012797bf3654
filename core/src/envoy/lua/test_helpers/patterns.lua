-- string.match, find, gmatch and gsub in Lua, so that a test that counts instructions counts each
-- step of a pattern. Each result is compared with that of the real function.
--
-- In:  the string library.
-- Out: string.match, find, gmatch and gsub are replaced.

local real = {match = string.match, find = string.find, gmatch = string.gmatch, gsub = string.gsub}
local byte, sub, char = string.byte, string.sub, string.char

-- Which bytes one item of a pattern matches, by the real library.
local function bytes_of(class)
  local bytes = {}
  for value = 0, 255 do
    bytes[value] = real.find(char(value), "^" .. class .. "$") ~= nil
  end
  return bytes
end

-- The end of the item that begins at `at`.
local function item_end(pattern, at)
  local first = sub(pattern, at, at)
  if first == "%" then
    assert(real.find(pattern, "^[%aA-Z%p]", at + 1) and not real.find(pattern, "^[bf]", at + 1), "not supported: " .. pattern)
    return at + 1
  elseif first ~= "[" then
    return at
  end
  local at = at + (sub(pattern, at + 1, at + 1) == "^" and 2 or 1)
  repeat
    at = at + (sub(pattern, at, at) == "%" and 2 or 1)
  until sub(pattern, at, at) == "]"
  return at
end

local compiled = {}

local function compile(pattern)
  if compiled[pattern] then
    return compiled[pattern]
  end
  local program = {anchored = sub(pattern, 1, 1) == "^", captures = 0}
  local at, open = program.anchored and 2 or 1, {}
  while at <= #pattern do
    local first = sub(pattern, at, at)
    if first == "(" then
      program.captures = program.captures + 1
      open[#open + 1] = program.captures
      program[#program + 1] = {open = program.captures}
    elseif first == ")" then
      program[#program + 1] = {close = table.remove(open)}
    elseif first == "$" and at == #pattern then
      program[#program + 1] = {stop = true}
    else
      local finish = item_end(pattern, at)
      local item = {bytes = bytes_of(sub(pattern, at, finish))}
      local next = sub(pattern, finish + 1, finish + 1)
      if next ~= "" and real.find(next, "[*+?-]") then
        item.repeats = next
        finish = finish + 1
      end
      program[#program + 1] = item
      at = finish
    end
    at = at + 1
  end
  compiled[pattern] = program
  return program
end

local starts, ends = {}, {}

-- The position behind the match that begins at `at`, or nil.
local function match_here(text, at, program, number)
  while true do
    local item = program[number]
    if not item then
      return at
    end
    number = number + 1
    if item.open then
      starts[item.open] = at
    elseif item.close then
      ends[item.close] = at - 1
    elseif item.stop then
      return at == #text + 1 and at or nil
    elseif not item.repeats then
      if not item.bytes[byte(text, at)] then
        return nil
      end
      at = at + 1
    elseif item.repeats == "-" then
      while true do
        local found = match_here(text, at, program, number)
        if found or not item.bytes[byte(text, at)] then
          return found
        end
        at = at + 1
      end
    else
      local last = at
      while item.bytes[byte(text, last)] and (item.repeats ~= "?" or last == at) do
        last = last + 1
      end
      for from = last, item.repeats == "+" and at + 1 or at, -1 do
        local found = match_here(text, from, program, number)
        if found then
          return found
        end
      end
      return nil
    end
  end
end

local function captures_of(text, program, from, behind)
  if program.captures == 0 then
    return {sub(text, from, behind - 1)}
  end
  local all = {}
  for number = 1, program.captures do
    all[number] = sub(text, starts[number], ends[number])
  end
  return all
end

-- The first match at `from` or later: its position, the position behind it, its captures.
local function search(text, pattern, from)
  local program = compile(pattern)
  repeat
    local behind = match_here(text, from, program, 1)
    if behind then
      return from, behind, captures_of(text, program, from, behind)
    end
    from = from + 1
  until program.anchored or from > #text + 1
end

local function same(ours, theirs, what)
  assert(#ours == #theirs, what)
  for at = 1, #theirs do
    assert(ours[at] == theirs[at], what)
  end
  return unpack(theirs)
end

function string.match(text, pattern)
  local _, _, captures = search(text, pattern, 1)
  return same(captures or {}, {real.match(text, pattern)}, pattern)
end

function string.find(text, pattern, from, plain)
  if plain then
    return real.find(text, pattern, from, plain)
  end
  local at, behind = search(text, pattern, from or 1)
  local first, last = real.find(text, pattern, from or 1)
  return same(at and {at, behind - 1} or {}, {first, last}, pattern)
end

function string.gmatch(text, pattern)
  local from, theirs = 1, real.gmatch(text, pattern)
  return function()
    local at, behind, captures = nil, nil, nil
    if from <= #text + 1 then
      at, behind, captures = search(text, pattern, from)
    end
    from = at and math.max(behind, at + 1) or #text + 2
    return same(captures or {}, {theirs()}, pattern)
  end
end

function string.gsub(text, pattern, replacement)
  local from, count = 1, 0
  while from <= #text + 1 do
    local at, behind = search(text, pattern, from)
    if not at then
      break
    end
    count = count + 1
    from = math.max(behind, at + 1)
  end
  local result, replaced = real.gsub(text, pattern, replacement)
  assert(count == replaced, pattern)
  return result, replaced
end
