--- The fault matrix, 1: servers that end, and come back.

local env = require "tests.support.env"
local expect = require "tests.support.matrix.expect"
local matrix = require "tests.support.matrix"
local server = require "tests.support.matrix.server"


local family = {
  set_up = function(f) f.server = env.start() end,
  route = function(f) return f.server.url end,
  hold = server.hold,
}

local DOWN = "refused retryable | starting_up retryable | connection_lost retryable"

local ENDED = expect.ENDED

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
    expect = expect.lost {
      idle = "connection_lost ambiguous | " .. DOWN,
      connecting = DOWN,
      waiting = DOWN,
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
    expect = expect.lost {
      idle = "ok | connection_lost ambiguous | " .. DOWN,
      connecting = "ok | " .. DOWN,
      waiting = "ok | " .. DOWN,
    },
  },
  {
    name = "kill -9 of the postmaster",
    breaks = true,
    strike = function(c) server.end_by(c, "KILL") end,
    heal = server.start,
    expect = expect.lost {
      idle = "connection_lost ambiguous | " .. DOWN,
      connecting = DOWN,
      waiting = DOWN,
    },
  },
}


matrix.describe(_ENV, "server", family)
