--- Doctor: are the migrations there, and can they be read?

local FOLDERS = {
  { "tenant", "migrations_folder", "tenant_folder" },
  { "shared", "shared_folder", "shared_migrations_folder" },
}

local M = {}


local function check(case, files, kind, folder)
  local list, err = files.load(folder, case.migrations)
  if not list then
    case:add("error", "folders", err.message, {
      why = "no migration of this folder can be applied",
      fix = err.line and ("line %d of %s in %s"):format(err.line, err.migration,
                                                       folder)
        or "migrations." .. (kind == "shared" and "shared_folder"
                             or "tenant_folder"),
    })
  elseif #list == 0 then
    case:add("warning", "folders", ("%s has no migrations"):format(folder), {
      why = "a new tenant's schema stays empty",
      fix = "mtenant generate NAME" .. (kind == "shared" and " --shared" or ""),
    })
  else
    case:add("ok", "folders", ("%s: %d migrations, %s to %s"):format(
      folder, #list, list[1].name, list[#list].name))
  end
end


function M.run(case)
  if not case.given then return end
  local migrations = case.migrations
  if not migrations then
    case:add("info", "folders", "no migrations are configured", {
      fix = 'migrations = { tenant_folder = "migrations" }',
    })
    return
  end
  local has_files, files = pcall(require, "mtenant.migrator.files")
  if not has_files then return end -- versions.lua says why
  local any = false
  for _, names in ipairs(FOLDERS) do
    local folder = migrations[names[2]] or migrations[names[3]]
    if type(folder) == "string" then
      any = true
      check(case, files, names[1], folder)
    end
  end
  if not any then
    case:add("warning", "folders", "migrations names no folder", {
      why = "mtenant migrate has nothing to apply",
      fix = 'migrations = { tenant_folder = "migrations" }',
    })
  end
end


return M
