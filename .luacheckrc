std = "min"
max_line_length = 100
exclude_files = { "build/" }

-- On some of the Luas only; used behind a check.
read_globals = {
  "jit",
  "unpack",
  coroutine = { fields = { "isyieldable" } },
  math = { fields = { "type" } },
  table = { fields = { "pack", "unpack" } },
}

files["scripts"] = { std = "lua54" }
files["tests"] = { std = "lua54" }
files["tests/lua"] = { std = "lua54+busted" }
files["scripts/examples/*/policy_spec.lua"] = { std = "lua54+busted" }
