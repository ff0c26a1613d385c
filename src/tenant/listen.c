/*
 * Listeners: a connection per database beside its pools, on which
 * notifications come. It is in no pool's budget, for with a budget of one
 * nothing would be left. What is listened to, and when it connects again, is
 * decided by who has it. See tenant.h.
 */
#include "base/alloc.h"
#include "tenant/tenant_priv.h"

struct mt_listener {
  mt_node node; /* manager->listeners */
  mt_manager *manager;
  mt_endpoint *endpoint;
  mt_conn *conn; /* NULL: closed */
  bool counted;  /* in manager->pools_closing */
  bool gone;     /* its owner has let go */
  const mt_listener_callbacks *cbs;
  void *data;
};

static void listener_fini(mt_listener *l) {
  mt_list_remove(&l->manager->listeners, &l->node);
  mt_endpoint_unref(l->endpoint);
  mt__manager_unref(l->manager);
  mt_free(l);
}

/* ---- the connection -------------------------------------------------------- */

static void on_open(mt_conn *c) {
  mt_listener *l = c->data;
  if (!l->gone) l->cbs->on_open(l->data);
}

static void on_close(mt_conn *c, const mt_error *err) {
  mt_listener *l = c->data;
  l->conn = NULL;
  if (l->counted) mt__manager_closed_one(l->manager);
  l->counted = false;
  if (l->gone)
    listener_fini(l);
  else
    l->cbs->on_close(l->data, err);
}

static void on_progress(mt_conn *c) { (void)c; }

static bool get_password(mt_conn *c, char *buf, size_t size) {
  const mt_listener *l = c->data;
  return mt__manager_password(l->manager, buf, size);
}

static void on_notify(mt_conn *c, const char *channel, const char *payload) {
  mt_listener *l = c->data;
  if (!l->gone) l->cbs->on_notify(l->data, channel, payload);
}

static const mt_conn_callbacks conn_callbacks = {
    on_open, on_close, on_progress, get_password, NULL, on_notify};

/* ---- for the binding --------------------------------------------------------- */

const char *mt_tenant_place(const mt_tenant *t) {
  if (t->state != MT_TENANT_READY) return NULL;
  return mt_pool_endpoint(t->entry->pool)->key;
}

int mt_listener_new(mt_tenant *t, const mt_listener_callbacks *cbs, void *data,
                    mt_listener **out, mt_error **err) {
  mt_manager *m = t->manager;
  mt_listener *l;
  if (m->disposing) return mt_fail(err, mt__disposed_error());
  if (!mt_tenant_place(t))
    return mt_fail(err, mt_error_new(MT_E_UNREACHABLE,
                                     "tenant \"%s\" has no route yet", t->id));
  l = mt_calloc(sizeof *l);
  if (!l) return mt_fail(err, mt_error_oom());
  l->manager = m;
  l->cbs = cbs;
  l->data = data;
  /* counted by the listener; nobody writes to an endpoint */
  l->endpoint = mt_endpoint_ref(
      (mt_endpoint *)(uintptr_t)mt_pool_endpoint(t->entry->pool));
  mt_list_push(&m->listeners, &l->node);
  m->refs++;
  *out = l;
  return MT_OK;
}

int mt_listener_open(mt_listener *l, mt_error **err) {
  mt_conn_options o = mt__pool_options(&l->manager->cfg).conn;
  if (l->manager->disposing) return mt_fail(err, mt__disposed_error());
  if (l->conn)
    return mt_fail(err, mt_error_new(MT_E_MISUSE, "the listener is open"));
  l->conn =
      mt_conn_new(l->manager->reactor, l->endpoint, &o, &conn_callbacks, l);
  return l->conn ? MT_OK : mt_fail(err, mt_error_oom());
}

static void on_done(mt_req *req) {
  mt_listener *l = req->data;
  if (!l->gone) l->cbs->on_answer(l->data, req->err);
  mt_req_free(req);
}

bool mt_listener_send(mt_listener *l, const char *sql) {
  mt_req *req;
  if (!l->conn || !l->conn->ready || l->conn->state != MT_CONN_OPEN)
    return false;
  req = mt_req_new_text(MT_REQ_UNNAMED, NULL, sql);
  if (!req) return false;
  req->on_done = on_done;
  req->data = l;
  mt_conn_submit(l->conn, req);
  return true;
}

void mt_listener_close(mt_listener *l) {
  if (l->conn) mt_conn_close(l->conn, NULL);
}

void mt_listener_free(mt_listener *l) {
  l->gone = true;
  if (l->conn)
    mt_conn_close(l->conn, NULL);
  else
    listener_fini(l);
}

void mt__listeners_close_all(mt_manager *m) {
  mt_node *n;
  for (n = m->listeners.head; n; n = n->next) {
    mt_listener *l = mt_container(n, mt_listener, node);
    if (!l->conn || l->counted) continue;
    l->counted = true;
    m->pools_closing++;
    mt_conn_close(l->conn, mt__disposed_error());
  }
}
