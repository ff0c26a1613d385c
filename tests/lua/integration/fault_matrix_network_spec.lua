--- The fault matrix, 2: networks that break, stall and lie, by the fault proxy.

local env = require "tests.support.env"
local matrix = require "tests.support.matrix"
local proxy = require "tests.support.proxy"


local family = {
  set_up = function(f)
    f.server = env.start()
    f.proxy = proxy.start(f.server)
  end,
  route = function(f) return f.proxy.url end,
  hold = function(c) c.proxy:delay(30) end, -- each message of the handshake
}


local function heal(c)
  c.proxy:normal()
end


local LOST = "connection_lost retryable | connection_lost ambiguous"
local ENDED = "disposed | connection_lost retryable"

family.faults = {
  {
    name = "reset",
    breaks = true,
    strike = function(c) c.proxy:reset() end,
    heal = heal,
    expect = {
      idle = "ok | connection_lost ambiguous",
      connecting = "ok | connection_lost retryable",
      waiting = "ok",
      statement = "connection_lost ambiguous",
      transaction = "connection_lost retryable",
      commit = "connection_lost ambiguous",
      pipeline = { "ok", "connection_lost ambiguous", "connection_lost ambiguous" },
      session = { "ok", LOST },
      dispose = ENDED,
    },
  },
  {
    name = "connections end without a word",
    breaks = true,
    strike = function(c) c.proxy:cut_open({ how = "fin" }) end,
    heal = heal,
    expect = {
      idle = "ok | connection_lost ambiguous",
      connecting = "ok | connection_lost retryable",
      waiting = "ok",
      statement = "connection_lost ambiguous",
      transaction = "connection_lost retryable",
      commit = "connection_lost ambiguous",
      pipeline = { "ok", "connection_lost ambiguous", "connection_lost ambiguous" },
      session = { "ok", LOST },
      dispose = ENDED,
    },
  },
  {
    name = "blackhole",
    breaks = true,
    timeout_ms = 250,
    strike = function(c) c.proxy:blackhole() end,
    heal = heal,
    expect = {
      idle = "timeout ambiguous",
      connecting = "timeout",
      waiting = "timeout",
      statement = "timeout ambiguous",
      transaction = "connection_lost retryable",
      commit = "connection_lost ambiguous",
      pipeline = { "ok", "timeout ambiguous", "timeout ambiguous" },
      session = { "ok", "connection_lost ambiguous" },
      dispose = ENDED,
    },
  },
  {
    name = "answers lost", -- what was sent is done
    timeout_ms = 250,
    early = true,
    strike = function(c) c.proxy:drop("down") end,
    heal = heal,
    expect = {
      idle = "timeout ambiguous",
      connecting = "timeout",
      waiting = "timeout",
      statement = "timeout ambiguous",
      transaction = "connection_lost retryable",
      commit = "connection_lost ambiguous",
      pipeline = { "ok", "timeout ambiguous", "timeout ambiguous" },
      session = { "ok", "connection_lost ambiguous" },
      dispose = ENDED,
    },
  },
  {
    name = "requests lost",
    timeout_ms = 250,
    early = true,
    strike = function(c) c.proxy:drop("up") end,
    heal = heal,
    expect = {
      idle = "timeout ambiguous",
      connecting = "timeout",
      waiting = "timeout",
      statement = "timeout", -- ended by the server, which says so
      transaction = "connection_lost retryable",
      commit = "ok | connection_lost ambiguous",
      pipeline = { "ok", "timeout", "ok | timeout ambiguous" },
      session = { "ok", "connection_lost ambiguous" },
      dispose = ENDED,
    },
  },
  {
    name = "a slow network",
    strike = function(c)
      c.proxy:delay(10)
      c.proxy:throttle(20000)
    end,
    heal = heal,
    expect = {
      idle = "ok", connecting = "ok", waiting = "ok", statement = "ok",
      transaction = "ok", commit = "ok", pipeline = "ok", session = "ok", dispose = ENDED,
    },
  },
  {
    name = "reset and refused",
    breaks = true,
    strike = function(c)
      c.proxy:refuse()
      c.proxy:reset()
    end,
    heal = heal,
    expect = {
      idle = "refused retryable | connection_lost ambiguous",
      connecting = "refused retryable | connection_lost retryable",
      waiting = "refused retryable",
      statement = "connection_lost ambiguous",
      transaction = "connection_lost retryable",
      commit = "connection_lost ambiguous",
      pipeline = { "ok", "connection_lost ambiguous", "connection_lost ambiguous" },
      session = { "ok", LOST },
      dispose = ENDED,
    },
  },
  {
    name = "stalled handshake",
    early = true,
    strike = function(c) c.proxy:cut({ at = 1, how = "silence", every = true }) end,
    heal = heal,
    expect = {
      idle = "ok",
      connecting = "timeout retryable",
      waiting = "ok",
      statement = "ok",
      transaction = "ok",
      commit = "ok",
      pipeline = "ok",
      session = "ok",
      dispose = ENDED,
    },
  },
  {
    name = "garbage",
    breaks = true,
    timeout_ms = 250,
    early = true,
    strike = function(c) c.proxy:garbage({ at = 1 }) end,
    heal = heal,
    expect = {
      idle = "connection_lost ambiguous",
      connecting = "protocol",
      waiting = "protocol",
      statement = "connection_lost ambiguous",
      transaction = "connection_lost retryable",
      commit = "connection_lost ambiguous",
      pipeline = { "ok", "connection_lost ambiguous", "connection_lost ambiguous" },
      session = { "ok", "connection_lost ambiguous" },
      dispose = ENDED,
    },
  },
}


describe("fault matrix, network:", function()
  setup(matrix.set_up(family))
  teardown(matrix.tear_down(family))
  after_each(env.assert_nothing_left)

  for _, cell in ipairs(matrix.cells(family)) do
    (cell.pending and pending or it)(cell.name, cell.run)
  end
end)
