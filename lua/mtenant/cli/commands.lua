--- What each command takes: pure data, for the parser, the help texts and the
-- completion scripts.
--
-- An option is { "-s --long", text }, a flag unless it has a `value` (its name
-- in the help). Further fields: `kind` ("integer" with `min`, "list",
-- "concurrency"; text unless given), `choices`, `default`, `many`, `target`
-- (where the value goes, else the long name with underscores).

local TENANTS = {
  title = "Tenants",
  { "-a --all", "all tenants that tenant_discovery names" },
  { "-t --tenant", "this one; may be repeated", value = "ID", many = true },
  { "--tenants", "these", value = "ID,ID", kind = "list" },
}

local HELP = { "-h --help", "this text" }

local OUTPUT = {
  title = "Output",
  { "--json", "one JSON object per line on standard output" },
  { "-q --quiet", "only what went wrong" },
  { "-v --verbose", "a line per tenant" },
  { "--no-color", "no colour, as when NO_COLOR is set" },
  HELP,
}

local CONFIG = {
  title = "Configuration",
  { "--config", "instead of the tenant.config.lua of this directory or of the "
    .. "nearest one above", value = "FILE" },
  { "--url", "instead of connection.url and DATABASE_URL", value = "URL" },
}

local FOLDER = { "--migrations-folder", "instead of the configuration's",
                 value = "DIR" }
local DRY_RUN = { "--dry-run", "change nothing, say what would be done" }
local FORCE = { "--force", "don't ask" }
local STOP_ON_ERROR = { "--stop-on-error",
                        "begin no further tenant after a failure" }
local CONCURRENCY = { "--concurrency", "so many tenants at a time; auto: as many "
                      .. "as there are connections", value = "N",
                      kind = "concurrency" }
local MARK_APPLIED = { "--mark-applied",
                       "record the migrations without running them" }

local NO_COLOR = { "--no-color", "no colour, as when NO_COLOR is set" }
local POLICY = { "--policy", "instead of the configuration's policy or resolve",
                 value = "FILE" }
local SERVERS = { "--servers", "names that stand for servers, in the place of "
                  .. "the configuration's", value = "NAME,NAME", kind = "list" }

local ENDPOINT = {
  title = "Process",
  { "--admin", "the admin endpoint to ask: http://HOST:PORT, HOST:PORT or "
    .. "unix:PATH; else $MTENANT_ADMIN, else 127.0.0.1:9187", value = "ADDRESS" },
  { "--token-file", "whose first line is the token; else $MTENANT_ADMIN_TOKEN",
    value = "FILE" },
  { "--basic-file", "whose first line is user:password; else "
    .. "$MTENANT_ADMIN_BASIC", value = "FILE" },
  { "--timeout", "to wait for the answer", value = "MS", kind = "integer",
    min = 1, target = "timeout_ms" },
}

local WATCH = { "--watch", "again every so many seconds, until it is stopped",
                value = "S", kind = "integer", min = 1 }
local ASKED_OUTPUT = {
  title = "Output",
  { "--json", "what the endpoint says, as it is" },
  { "-q --quiet", "only what went wrong" },
  NO_COLOR,
  HELP,
}

local LIMITS = {
  title = "Limits and checks",
  { "--lock-timeout", "of each migration's statements for a lock", value = "MS",
    kind = "integer", min = 1, target = "lock_timeout_ms" },
  { "--statement-timeout", "of each statement", value = "MS",
    kind = "integer", min = 1, target = "statement_timeout_ms" },
  { "--lock-wait", "for other runs on the same tenant", value = "MS",
    kind = "integer", min = 0, target = "lock_wait_ms" },
  { "--allow-out-of-order", "apply a file that comes before an applied one" },
  { "--allow-edited", "go on where an applied file was changed" },
}


local function group(title, ...)
  return { title = title, ... }
end


return {
  {
    name = "migrate",
    text = "Brings tenants up to date: applies the migrations that each lacks.",
    groups = {
      TENANTS,
      group("Migration", DRY_RUN, MARK_APPLIED,
        { "--with-shared", "the shared schema first; no tenant if it fails" },
        STOP_ON_ERROR, CONCURRENCY, FOLDER),
      LIMITS, CONFIG, OUTPUT,
    },
    example = "mtenant migrate --all --dry-run\n"
      .. "mtenant migrate --tenants acme,globex --lock-timeout 2000",
  },
  {
    name = "migrate-shared",
    text = "Brings the shared schema up to date.",
    groups = { group("Migration", DRY_RUN, MARK_APPLIED, FOLDER), LIMITS, CONFIG,
               OUTPUT },
    example = "mtenant migrate-shared --dry-run",
  },
  {
    name = "status",
    text = "Shows what each tenant has and lacks; all tenants unless told.",
    groups = {
      TENANTS,
      group("Status",
        { "--include-shared", "the shared schema, too" },
        { "--exit-code", "exit status 1 when something is pending" },
        FOLDER),
      CONFIG, OUTPUT,
    },
    example = "mtenant status\nmtenant status --tenant acme --exit-code",
  },
  {
    name = "sync",
    text = "Compares the records with the files; shows the difference, for all "
      .. "tenants unless told, or takes it out of the records.",
    groups = {
      TENANTS,
      group("Records",
        { "--mark-missing", "record the files that are not recorded" },
        { "--clean-orphans", "remove the records that have no file" },
        CONCURRENCY, FOLDER),
      CONFIG, OUTPUT,
    },
    example = "mtenant sync\nmtenant sync --all --mark-missing --clean-orphans",
  },
  {
    name = "generate",
    text = "Makes a migration file with the next number and prints its path.",
    arguments = { { "name", "what the migration does: create users", many = true } },
    groups = {
      group("File",
        { "--shared", "for the shared schema" },
        { "--type", "sql unless given", value = "TYPE",
          choices = { "sql", "lua" }, default = "sql" },
        { "--template", "what is in it; auto: by the name", value = "NAME",
          choices = { "auto", "blank", "table", "index", "foreign-key",
                      "column" }, default = "auto" },
        FOLDER),
      group("Configuration", CONFIG[1]), group("Output", HELP),
    },
    example = "mtenant generate create_users\n"
      .. "mtenant generate --type lua 'fill in slugs'",
  },
  {
    name = "create",
    text = "Makes a tenant: its schema, with all migrations.",
    arguments = { { "id", "the tenant" } },
    groups = {
      group("Tenant", { "--no-migrate", "the schema only" }, FOLDER),
      LIMITS, CONFIG, OUTPUT,
    },
    example = "mtenant create acme",
  },
  {
    name = "drop",
    text = "Removes a tenant's schema with all that is in it.",
    arguments = { { "id", "the tenant" } },
    groups = {
      group("Tenant", FORCE,
        { "--restrict", "fail when something else depends on it" }, FOLDER),
      CONFIG, OUTPUT,
    },
    example = "mtenant drop acme",
  },
  {
    name = "seed",
    text = "Calls the function that FILE returns, function(db, tenant_id), for "
      .. "each tenant.",
    arguments = { { "file", "a Lua file that returns it, or a table with it as "
                    .. "seed" } },
    groups = {
      TENANTS,
      group("Seed", { "--shared", "for the shared schema; first, if tenants are "
                      .. "named, too" },
        STOP_ON_ERROR, CONCURRENCY, FOLDER),
      CONFIG, OUTPUT,
    },
    example = "mtenant seed seeds/plans.lua --all\n"
      .. "mtenant seed seeds/countries.lua --shared",
  },
  {
    name = "convert-format",
    text = "Changes the format of the tables that record the migrations.",
    groups = {
      TENANTS,
      group("Format",
        { "--to", "name, hash or drizzle-kit", value = "FORMAT",
          choices = { "name", "hash", "drizzle-kit" }, required = true },
        DRY_RUN, CONCURRENCY, FOLDER),
      CONFIG, OUTPUT,
    },
    example = "mtenant convert-format --to name --all --dry-run",
  },
  {
    name = "rollback",
    text = "Takes migrations back, the last one unless told, by what they say "
      .. "about it.",
    groups = {
      TENANTS,
      group("Rollback",
        { "--steps", "so many migrations", value = "N", kind = "integer",
          min = 1 },
        { "--to", "all that came after this one", value = "NAME" },
        FORCE, STOP_ON_ERROR, CONCURRENCY, FOLDER),
      LIMITS, CONFIG, OUTPUT,
    },
    exclusive = { { "--steps", "--to" } },
    example = "mtenant rollback --tenant acme\n"
      .. "mtenant rollback --all --to 0012_orders --force",
  },
  {
    name = "route",
    text = "Shows where a tenant lives: the route that the routing policy gives "
      .. "it.",
    arguments = { { "id", "the tenant; unless --request names it",
                    optional = true } },
    groups = {
      group("Route", POLICY,
        { "--request", "an object with host, path, headers, method, claims: "
          .. "what identify and ctx.request get", value = "JSON" },
        { "--explain", "why: what the policy has noted on its way" },
        SERVERS),
      CONFIG,
      group("Output", { "--json", "one JSON object on standard output" },
            NO_COLOR, HELP),
    },
    example = "mtenant route acme --explain\n"
      .. "mtenant route --policy policy.lua --request "
      .. "'{\"host\":\"acme.example.com\"}'",
  },
  {
    name = "policy",
    text = "Checks a policy file by its own tests, or shows how it spreads "
      .. "tenants over servers.",
    arguments = {
      { "action", "check: run its self-tests; simulate: ask it for many tenants",
        choices = { "check", "simulate" } },
      { "file", "the policy" },
    },
    groups = {
      group("Simulation",
        { "--tenants", "a file with an id per line, or - for standard input",
          value = "FILE" },
        { "--against", "another policy: who would move from it to this one",
          value = "FILE" },
        SERVERS),
      CONFIG,
      group("Output", { "--json", "one JSON object per line on standard output" },
            { "-q --quiet", "only what went wrong" },
            { "-v --verbose", "a line per test, or per tenant" },
            NO_COLOR, HELP),
    },
    example = "mtenant policy check policy.lua\n"
      .. "mtenant policy simulate new.lua --against old.lua --tenants ids.txt",
  },
  {
    name = "health",
    text = "Asks a running process whether its servers answer.",
    groups = {
      ENDPOINT,
      group("Health",
        { "--ready", "whether it can serve now, by its rule" }, WATCH),
      ASKED_OUTPUT,
    },
    example = "mtenant health\nmtenant health --admin db1.internal:9187 "
      .. "--token-file token --ready",
  },
  {
    name = "metrics",
    text = "Shows what a running process does: its servers and its tenants.",
    groups = {
      ENDPOINT,
      group("Metrics",
        { "--prometheus", "the text that Prometheus scrapes" },
        { "--openmetrics", "the same, in OpenMetrics' format" }, WATCH),
      ASKED_OUTPUT,
    },
    exclusive = { { "--prometheus", "--openmetrics" }, { "--prometheus", "--json" },
                  { "--openmetrics", "--json" } },
    example = "mtenant metrics --watch 2\n"
      .. "mtenant metrics --admin unix:/run/app/admin.sock --json",
  },
  {
    name = "doctor",
    text = "Looks for what is wrong with the configuration, its servers and its "
      .. "tenants, and says how to mend it. Changes nothing. Without a "
      .. "configuration file it looks at DATABASE_URL.",
    groups = {
      group("Doctor",
        { "--strict", "exit status 1 for warnings, too" },
        { "--timeout", "of each question", value = "MS", kind = "integer",
          min = 1, target = "timeout_ms" }),
      CONFIG, OUTPUT,
    },
    example = "mtenant doctor\nmtenant doctor --config tenant.config.lua --json",
  },
  {
    name = "completion",
    text = "Prints a script that makes a shell complete these commands.",
    arguments = { { "shell", "bash, zsh or fish",
                    choices = { "bash", "zsh", "fish" } } },
    groups = { group("Output", HELP) },
    example = "source <(mtenant completion bash)\n"
      .. "mtenant completion zsh >~/.zfunc/_mtenant\n"
      .. "mtenant completion fish >~/.config/fish/completions/mtenant.fish",
  },
}
