--- mtenant generate: makes a migration file with the next number.

local cli = require "mtenant.cli"
local generate = require "mtenant.cli.generate"
local host = require "mtenant.runner_host"


local function folder_of(run)
  local opts = run.opts
  if opts.migrations_folder then
    return opts.migrations_folder
  end
  return run:folder(opts.shared and "shared" or "tenant")
end


return cli.run("generate", function(run)
  local opts = run.opts
  local slug = generate.slug(table.concat(opts.name, " "))
  if slug == "" then
    run:usage("the name needs letters or digits")
  end
  local folder = folder_of(run):gsub("(.)/+$", "%1")
  local entries = host.list_dir(folder)
  if not entries then
    run:fail("there is no folder " .. folder)
  end
  local other = generate.same_name(entries, slug)
  if other then
    run:fail(folder .. "/" .. other .. " is there already")
  end
  local path = ("%s/%s_%s.%s"):format(folder, generate.next_number(entries), slug,
                                      opts.type)
  local file = run:must(io.open(path, "w"))
  run:must(file:write(generate.text(slug, opts.type, opts.template)))
  run:must(file:close())
  print(path)
  return 0
end)
