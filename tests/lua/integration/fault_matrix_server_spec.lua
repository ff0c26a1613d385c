--- The fault matrix, 1: servers that end, and come back.

local env = require "tests.support.env"
local matrix = require "tests.support.matrix"
local server = require "tests.support.matrix.server"


local family = {
  set_up = function(f) f.server = env.start() end,
  route = function(f) return f.server.url end,
  hold = server.hold,
}

local DOWN = "refused retryable | starting_up retryable | connection_lost retryable"

-- COMMIT had not been sent, so there is no doubt
local ENDED = "disposed | connection_lost retryable"
-- the loss is noticed before the statement is sent, or after
local LOST = "connection_lost retryable | connection_lost ambiguous"

family.faults = {
  {
    name = "fast shutdown",
    breaks = true,
    strike = function(c) server.end_by(c, "INT") end,
    heal = server.start,
    expect = {
      idle = DOWN,
      connecting = DOWN,
      waiting = DOWN,
      statement = "connection_lost retryable",
      transaction = "connection_lost retryable",
      commit = "connection_lost retryable",
      pipeline = { "ok", "connection_lost retryable", DOWN },
      session = { "ok", "connection_lost retryable" },
      dispose = ENDED,
    },
  },
  {
    name = "immediate shutdown",
    breaks = true,
    strike = function(c) server.end_by(c, "QUIT") end,
    heal = server.start,
    expect = {
      idle = "connection_lost ambiguous | " .. DOWN,
      connecting = DOWN,
      waiting = DOWN,
      statement = "connection_lost ambiguous",
      transaction = "connection_lost retryable",
      commit = "connection_lost ambiguous",
      pipeline = { "ok", "connection_lost ambiguous", "connection_lost ambiguous" },
      session = { "ok", LOST },
      dispose = ENDED,
    },
  },
  {
    name = "kill -9 of a backend",
    breaks = true,
    strike = function(c)
      env.signal(c.server, "KILL", server.a_backend(c))
      server.release(c)
    end,
    heal = server.answers,
    expect = {
      idle = "ok | connection_lost ambiguous | " .. DOWN,
      connecting = "ok | " .. DOWN,
      waiting = "ok | " .. DOWN,
      statement = "connection_lost ambiguous",
      transaction = "connection_lost retryable",
      commit = "connection_lost ambiguous",
      pipeline = { "ok", "connection_lost ambiguous", "connection_lost ambiguous" },
      session = { "ok", LOST },
      dispose = ENDED,
    },
  },
  {
    name = "kill -9 of the postmaster",
    breaks = true,
    strike = function(c) server.end_by(c, "KILL") end,
    heal = server.start,
    expect = {
      idle = "connection_lost ambiguous | " .. DOWN,
      connecting = DOWN,
      waiting = DOWN,
      statement = "connection_lost ambiguous",
      transaction = "connection_lost retryable",
      commit = "connection_lost ambiguous",
      pipeline = { "ok", "connection_lost ambiguous", "connection_lost ambiguous" },
      session = { "ok", LOST },
      dispose = ENDED,
    },
  },
}


describe("fault matrix, server:", function()
  setup(matrix.set_up(family))
  teardown(matrix.tear_down(family))
  after_each(env.assert_nothing_left)

  for _, cell in ipairs(matrix.cells(family)) do
    (cell.pending and pending or it)(cell.name, cell.run)
  end
end)
