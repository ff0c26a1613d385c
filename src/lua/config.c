/*
 * A manager's configuration, from the flat table that lua/mtenant/config.lua
 * makes of a checked one. Texts are the table's: it must outlive their use.
 */
#include <string.h>

#include "lua/mt_lua.h"

static double num(lua_State *L, const char *key, double otherwise) {
  double v;
  lua_getfield(L, 1, key);
  v = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : otherwise;
  lua_pop(L, 1);
  return v;
}

bool mt_lua_flag(lua_State *L, const char *key) {
  bool v;
  lua_getfield(L, 1, key);
  v = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return v;
}

/* Stays valid while the table at index 1 holds it. */
static const char *str(lua_State *L, const char *key) {
  const char *s;
  lua_getfield(L, 1, key);
  s = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
  lua_pop(L, 1);
  return s;
}

/* The index of the value in names; `otherwise` when it is not there. */
static int choice(lua_State *L, const char *key, const char *const *names,
                  int otherwise) {
  const char *s = str(L, key);
  int i;
  for (i = 0; s && names[i]; i++)
    if (strcmp(s, names[i]) == 0) return i;
  return otherwise;
}

static const char *const jitters[] = {"none",  "seed",         "full",
                                      "equal", "decorrelated", NULL};
static const char *const resets[] = {"auto", "always", "discard_all", NULL};
static const char *const queue_policies[] = {"queue", "reject", "evict-lru",
                                             NULL};
static const char *const rate_modes[] = {"queue", "reject", "throttle", NULL};

static void read_path(lua_State *L, const char **path) {
  int n = 0;
  lua_getfield(L, 1, "search_path");
  if (lua_istable(L, -1)) {
    for (; n < MT_LUA_PATH_NAMES; n++) {
      lua_rawgeti(L, -1, n + 1);
      path[n] = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
      lua_pop(L, 1);
      if (!path[n]) break;
    }
  }
  path[n] = NULL;
  lua_pop(L, 1);
}

void mt_lua_read_config(lua_State *L, mt_manager_config *c, const char **path) {
  mt_manager_config_init(c);
  c->url = str(L, "url");
  if (str(L, "application_name"))
    c->application_name = str(L, "application_name");
  c->pool_max = (int)num(L, "pool_max", c->pool_max);
  c->pool_min = (int)num(L, "pool_min", c->pool_min);
  c->max_waiting = (int)num(L, "max_waiting", c->max_waiting);
  c->cache_statements = (int)num(L, "cache_statements", c->cache_statements);
  c->idle_timeout_ms = num(L, "idle_timeout_ms", c->idle_timeout_ms);
  c->connect_timeout_ms = num(L, "connect_timeout_ms", c->connect_timeout_ms);
  c->acquire_timeout_ms = num(L, "acquire_timeout_ms", c->acquire_timeout_ms);
  c->max_lifetime_ms = num(L, "max_lifetime_ms", c->max_lifetime_ms);
  c->cancel_timeout_ms = num(L, "cancel_timeout_ms", c->cancel_timeout_ms);
  c->idle_transaction_timeout_ms = num(L, "idle_transaction_timeout_ms", 0);
  c->max_connections = (int)num(L, "max_connections", 0);
  c->processes = (int)num(L, "processes", 1);
  c->max_tenants_touched =
      (int)num(L, "max_tenants_touched", c->max_tenants_touched);
  c->retry.max_attempts = (int)num(L, "max_attempts", c->retry.max_attempts);
  c->retry.initial_delay_ms =
      num(L, "initial_delay_ms", c->retry.initial_delay_ms);
  c->retry.max_delay_ms = num(L, "max_delay_ms", c->retry.max_delay_ms);
  c->retry.multiplier = num(L, "backoff_multiplier", c->retry.multiplier);
  c->retry.jitter = (mt_jitter)choice(L, "jitter", jitters, MT_JITTER_SEED);
  c->retry.deadline_ms = num(L, "deadline_ms", 0);
  c->dedicated = mt_lua_flag(L, "dedicated");
  c->verify_schema = mt_lua_flag(L, "verify_schema");
  c->reset = (mt_reset_mode)choice(L, "reset", resets, MT_RESET_AUTO);
  c->queue_policy =
      (mt_queue_policy)choice(L, "queue_policy", queue_policies, MT_QUEUE_WAIT);
  c->breaker.failure_threshold =
      (int)num(L, "breaker_failure_threshold", c->breaker.failure_threshold);
  c->breaker.initial_delay_ms =
      num(L, "breaker_initial_delay_ms", c->breaker.initial_delay_ms);
  c->breaker.max_delay_ms =
      num(L, "breaker_max_delay_ms", c->breaker.max_delay_ms);
  c->breaker.break_duration_ms = num(L, "break_duration_ms", 0);
  c->breaker.fail_fast = mt_lua_flag(L, "breaker_fail_fast");
  c->breaker.failure_ratio = num(L, "breaker_failure_ratio", 0);
  c->breaker.minimum_throughput =
      (int)num(L, "breaker_minimum_throughput", c->breaker.minimum_throughput);
  c->breaker.sampling_duration_ms =
      num(L, "breaker_sampling_duration_ms", c->breaker.sampling_duration_ms);
  c->retry_budget.enabled = mt_lua_flag(L, "retry_budget_enabled");
  c->retry_budget.per_second =
      num(L, "retry_budget_per_second", c->retry_budget.per_second);
  c->retry_budget.ratio = num(L, "retry_budget_ratio", c->retry_budget.ratio);
  c->retry_budget.burst = num(L, "retry_budget_burst", c->retry_budget.burst);
  c->retry_budget.tenant_share =
      num(L, "retry_budget_tenant_share", c->retry_budget.tenant_share);
  c->rate_limit.per_second = num(L, "max_queries_per_second", 0);
  c->rate_limit.burst = num(L, "burst", 1);
  c->rate_limit.mode =
      (mt_rate_mode)choice(L, "on_exceeded", rate_modes, MT_RATE_QUEUE);
  c->pooled = mt_lua_flag(L, "pooled");
  c->max_pools = (int)num(L, "max_pools", c->max_pools);
  c->pool_ttl_ms = num(L, "pool_ttl_ms", c->pool_ttl_ms);
  c->seed = (uint64_t)num(L, "seed", 0);
  c->metrics = mt_lua_flag(L, "metrics");
  c->metrics_tenants = (int)num(L, "metrics_tenants", c->metrics_tenants);
  read_path(L, path);
  if (path[0]) c->search_path = path;
}
