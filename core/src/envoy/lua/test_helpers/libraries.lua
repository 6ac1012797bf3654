-- Lets tests call the functions of libraries, which are local to the script that they are part of.
--
-- In:  a script's libraries (paths.lua, urls.lua, below_web_path.lua), before this file.
-- Out: library, their functions by name; nil for those of a library that isn't there.

library = {web_ui = web_ui, under = under, correct_urls = correct_urls, below_web_path = below_web_path}
