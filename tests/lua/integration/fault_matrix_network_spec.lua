--- The fault matrix, 2: networks that break, stall and lie, by the fault proxy.

local env = require "tests.support.env"
local expect = require "tests.support.matrix.expect"
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


local ENDED = expect.ENDED

family.faults = {
  {
    name = "reset",
    breaks = true,
    strike = function(c) c.proxy:reset() end,
    heal = heal,
    expect = expect.lost {
      idle = "ok | connection_lost ambiguous",
      connecting = "ok | connection_lost retryable",
      waiting = "ok",
    },
  },
  {
    name = "connections end without a word",
    breaks = true,
    strike = function(c) c.proxy:cut_open({ how = "fin" }) end,
    heal = heal,
    expect = expect.lost {
      idle = "ok | connection_lost ambiguous",
      connecting = "ok | connection_lost retryable",
      waiting = "ok",
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
    expect = expect.untouched {
      connecting = "ok",
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
    expect = expect.lost {
      idle = "refused retryable | connection_lost ambiguous",
      connecting = "refused retryable | connection_lost retryable",
      waiting = "refused retryable",
    },
  },
  {
    name = "stalled handshake",
    early = true,
    strike = function(c) c.proxy:cut({ at = 1, how = "silence", every = true }) end,
    heal = heal,
    expect = expect.untouched {
      connecting = "timeout retryable",
    },
  },
  {
    name = "garbage",
    breaks = true,
    timeout_ms = 250,
    early = true,
    strike = function(c) c.proxy:garbage({ at = 1 }) end,
    heal = heal,
    expect = expect.lost {
      idle = "connection_lost ambiguous",
      connecting = "protocol",
      waiting = "protocol",
      session = { "ok", "connection_lost ambiguous" },
    },
  },
}


matrix.describe(_ENV, "network", family)
