--- tracing.lua: ids of requests, comments of sqlcommenter, names.

local tracing = require "mtenant.tracing"

local PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


describe("ids of a request", function()
  it("are taken from its headers", function()
    assert.same({ request_id = "a.b-1", traceparent = PARENT,
                  trace_id = "0af7651916cd43dd8448eb211c80319c",
                  tracestate = "x=y" },
                tracing.of_headers { ["x-request-id"] = "a.b-1",
                                     traceparent = PARENT, tracestate = "x=y" })
    assert.equal("0af7651916cd43dd8448eb211c80319c",
                 tracing.of_headers({ traceparent = PARENT }).request_id)
    assert.same({}, tracing.of_headers(nil))
  end)

  it("are taken only in their form", function()
    for _, wrong in ipairs {
      "", "a b", "x\ny", "'", "*/", ("x"):rep(129), { "a", "b" },
    } do
      assert.same({}, tracing.of_headers { ["x-request-id"] = wrong })
    end
    for _, wrong in ipairs {
      PARENT:upper(), PARENT .. "x", PARENT .. "-00", PARENT:sub(1, -2),
      (PARENT:gsub("^00", "ff")), (PARENT:gsub("b7ad6b7169203331", ("0"):rep(16))),
      (PARENT:gsub("0af7651916cd43dd8448eb211c80319c", ("0"):rep(32))),
      "00-" .. ("a"):rep(33) .. "-b7ad6b716920333-01", "x'" .. PARENT,
    } do
      assert.same({}, tracing.of_headers { traceparent = wrong, tracestate = "a=b" })
    end
    assert.is_truthy(tracing.of_headers {
      traceparent = (PARENT:gsub("^00", "01")) .. "-more" }.traceparent)
    assert.is_nil(tracing.of_headers { traceparent = PARENT,
                                       tracestate = "a\nb" }.tracestate)
  end)
end)


describe("a comment", function()
  -- examples of sqlcommenter's specification; what it need not, we encode, too
  it("is in the format of sqlcommenter", function()
    assert.equal("/*name='DROP%20TABLE%20FOO'*/",
                 tracing.comment { name = "DROP TABLE FOO" })
    assert.equal("/*route='%2Fparam%20first'*/",
                 tracing.comment { route = "/param first" })
    assert.equal("/*route='%2Fpolls%201000'*/",
                 tracing.comment { route = "/polls 1000" })
    assert.equal("/*action='%2Fparam%2Ad',controller='index',framework='spring',"
      .. "traceparent='" .. PARENT .. "',tracestate='congo%3Dt61rcWkgMzE%2Crojo"
      .. "%3D00f067aa0ba902b7'*/", tracing.comment {
        tracestate = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
        traceparent = PARENT, framework = "spring", action = "/param*d",
        controller = "index" })
  end)

  it("can't be left, whatever is in it", function()
    for _, evil in ipairs { "*/ DROP TABLE x; /*", "'", "\\'", "\0", "\n--",
                            "$$", "%", "\255", "\195\164" } do
      local text = tracing.comment { [evil] = evil, tenant = evil }
      local inside = text:match("^/%*(.*)%*/$")
      for pair in inside:gmatch("[^,]+") do
        assert.is_truthy(pair:find("^[%w_.~%%-]+='[%w_.~%%-]+'$"), pair)
      end
    end
  end)

  it("is bounded, and none where there is nothing to say", function()
    local many = {}
    for i = 1, 500 do many["key" .. i] = ("*"):rep(999) end
    assert.is_true(#tracing.comment(many) <= 1500)
    assert.is_nil(tracing.comment {})
    assert.is_nil(tracing.comment { a = "", b = {}, [1] = "x" })
  end)

  it("has what was asked for", function()
    local context = { route = "/x", secret = "y", user = "u" }
    local function latest() return context end
    assert.is_nil(tracing.tagger({ comments = false }, latest))
    assert.equal("/*route='%2Fx',tenant='acme'*/",
                 tracing.tagger({ comments = true }, latest)("acme"))
    assert.equal("/*user='u'*/",
                 tracing.tagger({ comments = { "user" } }, latest)("acme"))
    local function tags(given, id)
      return { job = given.route .. id }
    end
    assert.equal("/*job='%2Fxacme',tenant='acme'*/", tracing.tagger(
      { comments = { "tenant" }, tags = tags }, latest)("acme"))
    assert.equal("/*tenant='acme'*/", tracing.tagger(
      { comments = true, tags = function() error "no" end },
      function() end)("acme"))
  end)
end)


describe("an application_name", function()
  local function name(how, id)
    return tracing.application_name({
      connection = { application_name = "app" },
      tracing = { application_name = how },
    }, id)
  end

  it("names the tenant, as far as PostgreSQL keeps it", function()
    assert.is_nil(name(false, "acme"))
    assert.equal("app:acme", name(true, "acme"))
    assert.equal(63, #name(true, ("x"):rep(200)))
    assert.equal("t-acme?", name(function(id) return "t-" .. id .. "\n" end,
                                 "acme"))
    assert.is_nil(name(function() error "no" end, "acme"))
  end)

  it("is a setting of the route, unless that has its own", function()
    local cfg = { connection = { application_name = "app" },
                  tracing = { application_name = true } }
    assert.same({ application_name = "app:acme", work_mem = "1MB" },
                tracing.name_route(cfg, "acme", {
                  settings = { work_mem = "1MB" } }).settings)
    assert.same({ Application_Name = "mine" }, tracing.name_route(cfg, "acme", {
      settings = { Application_Name = "mine" } }).settings)
    assert.is_nil(tracing.name_route({ tracing = {} }, "acme", {}).settings)
    local many = {}
    for i = 1, 16 do many["a.b" .. i] = "x" end
    assert.equal(many, tracing.name_route(cfg, "acme",
                                          { settings = many }).settings)
  end)
end)
