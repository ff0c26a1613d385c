/* libpq's result accessors under our names. See result.h. */
#include "pg/result.h"

#include <libpq-fe.h>
#include <stdint.h>
#include <stdlib.h>

static const PGresult *pg(const mt_result *r) {
  return (const PGresult *)(const void *)r;
}

int mt_result_rows(const mt_result *r) { return PQntuples(pg(r)); }
int mt_result_columns(const mt_result *r) { return PQnfields(pg(r)); }

const char *mt_result_name(const mt_result *r, int column) {
  return PQfname(pg(r), column);
}

const char *mt_result_cell(const mt_result *r, int row, int column,
                           size_t *len) {
  int n = PQgetlength(pg(r), row, column);
  if (n == 0 && PQgetisnull(pg(r), row, column)) return NULL;
  *len = (size_t)n;
  return PQgetvalue(pg(r), row, column);
}

const char *mt_result_value(const mt_result *r, int row, int column) {
  size_t len;
  return mt_result_cell(r, row, column, &len);
}

size_t mt_result_length(const mt_result *r, int row, int column) {
  return (size_t)PQgetlength(pg(r), row, column);
}

unsigned mt_result_type(const mt_result *r, int column) {
  return PQftype(pg(r), column);
}

/* Array types of pg_type.dat whose elements need decoding; arrays of other
 * types with ',' as delimiter are decoded as arrays of text. */
unsigned mt_array_element(unsigned type) {
  switch (type) {
    case 1000:
      return MT_OID_BOOL;
    case 1001:
      return MT_OID_BYTEA;
    case 1005:
      return MT_OID_INT2;
    case 1007:
      return MT_OID_INT4;
    case 1016:
      return MT_OID_INT8;
    case 1021:
      return MT_OID_FLOAT4;
    case 1022:
      return MT_OID_FLOAT8;
    case 1028:
      return MT_OID_OID;
    case 199:
      return MT_OID_JSON;
    case 3807:
      return MT_OID_JSONB;
    case 1002: /* "char"[] */
    case 1003: /* name[] */
    case 1009: /* text[] */
    case 1014: /* bpchar[] */
    case 1015: /* varchar[] */
    case 1041: /* inet[] */
    case 651:  /* cidr[] */
    case 1115: /* timestamp[] */
    case 1182: /* date[] */
    case 1183: /* time[] */
    case 1185: /* timestamptz[] */
    case 1187: /* interval[] */
    case 1231: /* numeric[] */
    case 1270: /* timetz[] */
    case 2951: /* uuid[] */
      return 25;
    default:
      return 0;
  }
}

const char *mt_result_command(const mt_result *r) {
  return PQcmdStatus((PGresult *)(uintptr_t)pg(r));
}

long long mt_result_affected(const mt_result *r) {
  const char *n = PQcmdTuples((PGresult *)(uintptr_t)pg(r));
  return *n ? strtoll(n, NULL, 10) : 0;
}

void mt_result_clear(mt_result *r) { PQclear((PGresult *)(void *)r); }

size_t mt_result_payload(const mt_result *r) {
  int rows = PQntuples(pg(r)), columns = PQnfields(pg(r)), i, j;
  size_t n = 0;
  for (i = 0; i < rows; i++)
    for (j = 0; j < columns; j++) n += (size_t)PQgetlength(pg(r), i, j);
  return n;
}

size_t mt_result_bytes(const mt_result *r) {
  return r ? PQresultMemorySize(pg(r)) : 0;
}

int mt_pg_version(void) { return PQlibVersion(); }
