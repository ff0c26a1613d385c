--- errors.lua: codes, making, recognising, wrapping, raising and printing.

local errors = require "mtenant.errors"

local ALL = {
  "refused", "unreachable", "dns", "auth", "tls", "starting_up",
  "too_many_connections", "connection_lost", "timeout", "cancelled",
  "pool_exhausted", "breaker_open", "tenant_not_found", "invalid_tenant_id",
  "policy", "query", "protocol", "out_of_memory", "disposed", "misuse",
}


local function here()
  local info = debug.getinfo(2, "Sl")
  return info.short_src .. ":" .. info.currentline .. ": "
end


describe("errors.CODE", function()
  it("has every code once, each equal to its name", function()
    local count = 0
    for name, value in pairs(errors.CODE) do
      assert.equal(name, value)
      count = count + 1
    end
    assert.equal(#ALL, count)
    for _, name in ipairs(ALL) do assert.equal(name, errors.CODE[name]) end
  end)

  it("raises on a typo and lists what is valid, at the caller", function()
    local position
    local ok, err = pcall(function()
      position = here(); return errors.CODE.refussed
    end)
    assert.is_false(ok)
    assert.equal(position .. "unknown error code refussed, valid codes: " ..
                 table.concat(ALL, ", "), err.message)
    assert.is_true(errors.is(err, "misuse"))
  end)

  it("cannot be changed", function()
    local _, err = pcall(function() errors.CODE.mine = "mine" end)
    assert.matches("errors_spec.lua:%d+: errors.CODE cannot be changed " ..
                   "%(mine%)$", err.message)
    assert.is_nil(rawget(errors.CODE, "mine"))
  end)
end)


describe("errors.new", function()
  it("fills in what is usual for the code", function()
    local retryable = {
      refused = true, unreachable = true, dns = true, starting_up = true,
      too_many_connections = true, connection_lost = true,
    }
    for _, code in ipairs(ALL) do
      local err = errors.new(code, "no luck")
      assert.equal(code, err.code)
      assert.equal("no luck", err.message)
      assert.equal(retryable[code] or false, err.retryable)
      assert.is_false(err.ambiguous)
      assert.equal(errors.mt, getmetatable(err))
    end
  end)

  it("takes the other fields, which win over the defaults", function()
    local cause = {}
    local err = errors.new("refused", "no", {
      retryable = false, ambiguous = true, sqlstate = "08006", cause = cause,
      attempts = 3, tenant_id = "acme", severity = "FATAL", position = 7,
    })
    assert.equal("FATAL", err.severity)
    assert.equal(7, err.position)
    assert.is_false(err.retryable)
    assert.is_true(err.ambiguous)
    assert.equal("08006", err.sqlstate)
    assert.equal(cause, err.cause)
    assert.equal(3, err.attempts)
    assert.equal("acme", err.tenant_id)
  end)

  it("makes the message one line", function()
    assert.equal("a b", errors.new("query", "a\r\n  b").message)
  end)

  it("refuses unknown codes and fields at the caller", function()
    local position
    local _, err = pcall(function()
      position = here(); errors.new("nope", "x")
    end)
    assert.equal(position .. "unknown error code nope",
                 err.message:match "^(.-), valid")
    _, err = pcall(function()
      position = here(); errors.new("query", "x", { sql_state = "42P01" })
    end)
    assert.equal(position .. "unknown error field sql_state", err.message)
  end)
end)


describe("errors.is", function()
  it("knows error objects and their codes", function()
    local err = errors.new("timeout", "late")
    assert.is_true(errors.is(err))
    assert.is_true(errors.is(err, "timeout"))
    assert.is_false(errors.is(err, "query"))
  end)

  it("is false for everything else", function()
    for _, x in ipairs { "timeout", 5, {}, true, print,
                         { code = "timeout", message = "late" } } do
      assert.is_false(errors.is(x))
      assert.is_false(errors.is(x, "timeout"))
    end
    assert.is_false(errors.is(nil))
  end)

  it("raises on a code that is none", function()
    assert.has_error(function() errors.is({}, "tiemout") end)
  end)

  it("works on a table that only got the metatable, as the core makes them",
     function()
    local err = setmetatable({ code = "dns", message = "gone" }, errors.mt)
    assert.is_true(errors.is(err, "dns"))
    assert.equal("[mtenant] dns: gone", tostring(err))
  end)
end)


describe("errors.wrap", function()
  it("returns an error object untouched", function()
    local err = errors.new("timeout", "late")
    assert.equal(err, errors.wrap(err, "query"))
    assert.equal("timeout", err.code)
  end)

  it("makes anything else the cause", function()
    local err = errors.wrap("boom", "policy")
    assert.equal("policy", err.code)
    assert.equal("boom", err.message)
    assert.equal("boom", err.cause)
    local foreign = { message = "foreign", code = 7 }
    err = errors.wrap(foreign, "query")
    assert.equal("foreign", err.message)
    assert.equal(foreign, err.cause)
    assert.equal("nil", errors.wrap(nil, "query").message)
  end)

  it("survives a value that cannot be printed", function()
    local nasty = setmetatable({}, { __tostring = function() error("no") end })
    assert.equal("table", errors.wrap(nasty, "query").message)
  end)
end)


describe("errors.misuse", function()
  it("raises with the position of the level", function()
    local position
    local function api() errors.misuse(2, "%s is no %s", "x", "y") end
    local _, err = pcall(function()
      position = here(); api()
    end)
    assert.is_true(errors.is(err, "misuse"))
    assert.equal(position .. "x is no y", err.message)
    assert.equal("[mtenant] misuse: " .. position .. "x is no y",
                 tostring(err))
  end)

  it("level 1 is the function that calls it", function()
    local position
    local _, err = pcall(function()
      position = here(); errors.misuse(1, "here")
    end)
    assert.equal(position .. "here", err.message)
  end)

  it("takes the text as it is when there is nothing to format", function()
    local _, err = pcall(function() errors.misuse(1, "100% sure") end)
    assert.matches("100%% sure$", err.message)
  end)

  it("leaves the position out where there is none", function()
    local _, err = pcall(errors.misuse, 1, "from C")
    assert.equal("from C", err.message)
  end)
end)


describe("tostring", function()
  it("is one line with what people need", function()
    local err = errors.new("query", 'relation "t" does not exist', {
      sqlstate = "42P01", tenant_id = "acme", server = "db:5432",
      attempts = 3, ambiguous = true, hint = "create\nit",
    })
    assert.equal('[mtenant] query: relation "t" does not exist ' ..
                 '(SQLSTATE 42P01), tenant acme, server db:5432, ' ..
                 'after 3 attempts, its outcome is unknown; ' ..
                 'hint: create it', tostring(err))
  end)

  it("says nothing twice", function()
    assert.equal("[mtenant] refused: db:5432 refused",
                 tostring(errors.new("refused", "db:5432 refused",
                                     { server = "db:5432", attempts = 1 })))
    local text = "[mtenant] TenantManager has been disposed"
    assert.equal(text, tostring(errors.new("disposed", text)))
  end)

  it("takes ids for text, not for patterns", function()
    assert.equal("[mtenant] refused: no, tenant %, server [::1",
                 tostring(errors.new("refused", "no", {
                   tenant_id = "%", server = "[::1",
                 })))
  end)

  it("never shows the cause or the statement", function()
    local err = errors.new("query", "no", {
      cause = "secret", statement = "select 'secret'", detail = "secret",
    })
    assert.equal("[mtenant] query: no", tostring(err))
  end)
end)
