/*
 * Messages of PostgreSQL's protocol for a fake server, and an own count of the
 * ReadyForQuery messages in what it has said, which knows nothing of libpq.
 */
#ifndef MT_TESTS_FUZZ_PEER_BYTES_H
#define MT_TESTS_FUZZ_PEER_BYTES_H

#include <stdbool.h>
#include <stddef.h>

typedef struct peer_bytes {
  const char *bytes;
  size_t len;
} peer_bytes;

#define PEER_BYTES(text) \
  { text, sizeof(text) - 1 }

#define READY(status) "Z\0\0\0\5" status
#define PARSED "1\0\0\0\4"
#define BOUND "2\0\0\0\4"
#define ONE_COLUMN \
  "T\0\0\0\x1a\0\1a\0\0\0\0\0\0\0\0\0\0\x17\0\4\xff\xff\xff\xff\0\0"
#define ONE_ROW "D\0\0\0\xb\0\1\0\0\0\0011"
#define SELECTED "C\0\0\0\rSELECT 1\0"
#define ANSWER BOUND ONE_COLUMN ONE_ROW SELECTED
#define SETTING(name_and_value, len) "S\0\0\0" len name_and_value "\0"
#define FAILED(severity, state) \
  "E\0\0\0\x1dS" severity "\0V" severity "\0C" state "\0Mx\0\0"

/* AuthenticationOk, settings, BackendKeyData. */
static const peer_bytes peer_greeting =
    PEER_BYTES("R\0\0\0\x8\0\0\0\0" SETTING("client_encoding\0UTF8", "\x19")
                   SETTING("standard_conforming_strings\0on",
                           "\x23") "K\0\0\0\xc\0\0\0\1\0\0\0\2");
static const peer_bytes peer_version_13 =
    PEER_BYTES(SETTING("server_version\00013.0", "\x18"));
static const peer_bytes peer_version_15 =
    PEER_BYTES(SETTING("server_version\00015.1", "\x18"));
static const peer_bytes peer_ready = PEER_BYTES(READY("I"));
static const peer_bytes peer_answer = PEER_BYTES(PARSED ANSWER);
static const peer_bytes peer_names = PEER_BYTES(PARSED PARSED PARSED);

static const peer_bytes peer_canned[] = {
    PEER_BYTES(READY("I")),
    PEER_BYTES(PARSED),
    PEER_BYTES(BOUND),
    PEER_BYTES(ONE_COLUMN),
    PEER_BYTES(ONE_ROW),
    PEER_BYTES(SELECTED),
    PEER_BYTES(ANSWER),
    PEER_BYTES(PARSED ANSWER),
    PEER_BYTES(ANSWER PARSED ANSWER READY("I")), /* a scoped unit's */
    PEER_BYTES(ANSWER PARSED ANSWER READY("T")),
    PEER_BYTES(ONE_COLUMN ONE_ROW SELECTED READY("I")), /* a simple query's */
    PEER_BYTES(FAILED("ERROR", "22012") READY("I")),
    PEER_BYTES(FAILED("ERROR", "42P01")),
    PEER_BYTES(FAILED("ERROR", "0A000")),
    PEER_BYTES(FAILED("FATAL", "57P01")),
    PEER_BYTES(FAILED("FATAL", "57P05")),
    PEER_BYTES(READY("E")),
    PEER_BYTES("n\0\0\0\4"),
    PEER_BYTES("I\0\0\0\4"),
    PEER_BYTES("s\0\0\0\4"),
    PEER_BYTES("G\0\0\0\x7\0\0\0"),
    PEER_BYTES("H\0\0\0\x7\0\0\0"),
    PEER_BYTES("N\0\0\0\5\0"),
    PEER_BYTES("A\0\0\0\xc\0\0\0\1a\0b\0"),
    PEER_BYTES(SETTING("search_path\0b", "\x12")),
    PEER_BYTES(SETTING("server_version\00015.1", "\x18")),
    PEER_BYTES("C\0\0\0\xdROLLBACK\0"),
    PEER_BYTES("C\0\0\0\x10"
               "DISCARD ALL\0"),
};

enum { PEER_CANNED = sizeof peer_canned / sizeof *peer_canned };

/* Where the count is in the bytes. */
typedef struct peer_counter {
  unsigned char head[5];
  size_t nhead, left; /* bytes of the head; of the body still to come */
  int ready;
  bool lost; /* no message's length: no message begins any more */
} peer_counter;

static inline void peer_count(peer_counter *c, const void *data, size_t len) {
  const unsigned char *p = data, *end = p + len;
  size_t body;
  while (p < end && !c->lost) {
    if (c->left > 0) {
      size_t n = (size_t)(end - p) < c->left ? (size_t)(end - p) : c->left;
      c->left -= n;
      p += n;
      if (c->left == 0) c->nhead = 0;
      continue;
    }
    c->head[c->nhead++] = *p++;
    if (c->nhead < sizeof c->head) continue;
    body = (size_t)c->head[1] << 24 | (size_t)c->head[2] << 16 |
           (size_t)c->head[3] << 8 | c->head[4];
    c->lost = body < 4;
    c->left = body - 4;
    if (c->head[0] == 'Z' && body == 5) c->ready++;
    if (c->left == 0) c->nhead = 0;
  }
}

#endif
