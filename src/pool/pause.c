/*
 * A paused server: what runs there ends, what comes waits, and no connection
 * is opened. The queues' time stands meanwhile. See pool.h.
 */
#include "pool/pool_priv.h"

void mt_server_pause(mt_server *s) { s->paused = true; }

bool mt_server_resume(mt_server *s) {
  bool was = s->paused;
  s->paused = false;
  mt__server_wake(s);
  return was;
}

bool mt_server_quiet(const mt_server *s) {
  const mt_node *n, *m;
  for (n = s->pools.head; n; n = n->next) {
    const mt_pool *p = mt_container(n, mt_pool, node);
    for (m = p->slots.head; m; m = m->next) {
      const mt_slot *slot = mt_container(m, mt_slot, node);
      if (slot->lease || (slot->open && !mt_conn_quiet(slot->conn)))
        return false;
    }
  }
  return true;
}
