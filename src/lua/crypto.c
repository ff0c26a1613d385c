/*
 * luaopen_mtenant_crypto: what routing, migrations and the admin endpoint need
 * of libcrypto. A module of its own, so that only who uses it loads that. Pure
 * functions of strings without upvalues: a sandbox gets them as they are.
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <openssl/x509.h>
#include <stdio.h>

#include "lua/compat.h"

__attribute__((visibility("default"))) int luaopen_mtenant_crypto(lua_State *L);

enum {
  SHA256_BYTES = 32,
  MAX_PEM = 16 << 10,
  MIN_BITS = 2048, /* RFC 7518, 3.3 */
  MAX_BITS = 8192  /* a larger one takes long */
};

/* By libcrypto's older functions: EVP looks its algorithm up anew for each
 * sum, unless it is kept somewhere, which takes longer than the sum. */
static void digest(lua_State *L, const char *text, size_t len,
                   unsigned char *sum) {
  SHA256_CTX c;
  if (!SHA256_Init(&c) || !SHA256_Update(&c, text, len) ||
      !SHA256_Final(sum, &c))
    luaL_error(L, "sha256: libcrypto refuses it");
}

/* sha256(text) -> 64 hexadecimal digits */
static int sha256(lua_State *L) {
  size_t len;
  const char *text = luaL_checklstring(L, 1, &len);
  unsigned char sum[EVP_MAX_MD_SIZE];
  char hex[2 * SHA256_BYTES + 1];
  unsigned i;
  digest(L, text, len, sum);
  for (i = 0; i < SHA256_BYTES; i++) snprintf(hex + 2 * i, 3, "%02x", sum[i]);
  lua_pushlstring(L, hex, 2 * SHA256_BYTES);
  return 1;
}

/* unit(text) -> a number in [0, 1): the first 53 bits of its sum */
static int unit(lua_State *L) {
  size_t len;
  const char *text = luaL_checklstring(L, 1, &len);
  unsigned char sum[EVP_MAX_MD_SIZE];
  uint64_t bits = 0;
  int i;
  digest(L, text, len, sum);
  for (i = 0; i < 8; i++) bits = bits << 8 | sum[i];
  lua_pushnumber(L, (lua_Number)(bits >> 11) / 9007199254740992.0);
  return 1;
}

/* hmac_sha256(key, text) -> 32 bytes */
static int hmac_sha256(lua_State *L) {
  size_t key_len, len;
  const char *key = luaL_checklstring(L, 1, &key_len);
  const char *text = luaL_checklstring(L, 2, &len);
  unsigned char sum[EVP_MAX_MD_SIZE];
  unsigned n = 0;
  luaL_argcheck(L, key_len <= INT32_MAX, 1, "too long");
  if (!HMAC(EVP_sha256(), key, (int)key_len, (const unsigned char *)text, len,
            sum, &n))
    return luaL_error(L, "hmac_sha256: libcrypto refuses it");
  lua_pushlstring(L, (const char *)sum, n);
  return 1;
}

/* equal(a, b): without telling by its time where they differ */
static int equal(lua_State *L) {
  size_t a_len, b_len;
  const char *a = luaL_checklstring(L, 1, &a_len);
  const char *b = luaL_checklstring(L, 2, &b_len);
  lua_pushboolean(L, a_len == b_len && CRYPTO_memcmp(a, b, a_len) == 0);
  return 1;
}

/* ---- RSA ---------------------------------------------------------------------- */

/* Nobody is asked for the passphrase of what should be a public key. */
static int no_passphrase(char *buf, int size, int writing, void *ud) {
  (void)buf, (void)size, (void)writing, (void)ud;
  return 0;
}

static EVP_PKEY *key_of_certificate(BIO *bio) {
  X509 *x = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
  EVP_PKEY *key = x ? X509_get_pubkey(x) : NULL;
  X509_free(x);
  return key;
}

/* "PUBLIC KEY", or that of a "CERTIFICATE"; the caller frees it. */
static EVP_PKEY *public_key(const char *pem, size_t len) {
  BIO *bio = BIO_new_mem_buf(pem, (int)len);
  EVP_PKEY *key = NULL;
  if (bio) key = PEM_read_bio_PUBKEY(bio, NULL, no_passphrase, NULL);
  BIO_free(bio);
  if (key) return key;
  bio = BIO_new_mem_buf(pem, (int)len);
  if (bio) key = key_of_certificate(bio);
  BIO_free(bio);
  return key;
}

static const char *key_problem(EVP_PKEY *key) {
  int bits;
  if (!key) return "it is no PEM of a public key or a certificate";
  if (EVP_PKEY_base_id(key) != EVP_PKEY_RSA) return "it is no RSA key";
  bits = EVP_PKEY_bits(key);
  if (bits < MIN_BITS) return "the key has less than 2048 bits";
  if (bits > MAX_BITS) return "the key has more than 8192 bits";
  return NULL;
}

/* 1: it is the signature; 0: it is not; -1: no memory */
static int verify(EVP_PKEY *key, const char *text, size_t len,
                  const char *signature, size_t signature_len) {
  EVP_MD_CTX *ctx = EVP_MD_CTX_new();
  EVP_PKEY_CTX *pctx = NULL;
  int ok = -1;
  if (ctx && EVP_DigestVerifyInit(ctx, &pctx, EVP_sha256(), NULL, key) == 1 &&
      EVP_PKEY_CTX_set_rsa_padding(pctx, RSA_PKCS1_PADDING) == 1)
    ok = EVP_DigestVerify(ctx, (const unsigned char *)signature, signature_len,
                          (const unsigned char *)text, len) == 1;
  EVP_MD_CTX_free(ctx);
  return ok;
}

/* verify_rs256(pem, text, signature) -> boolean | nil, what is wrong with the
 * key */
static int verify_rs256(lua_State *L) {
  size_t pem_len, len, signature_len;
  const char *pem = luaL_checklstring(L, 1, &pem_len);
  const char *text = luaL_checklstring(L, 2, &len);
  const char *signature = luaL_checklstring(L, 3, &signature_len);
  const char *problem = "it is longer than 16 KiB";
  EVP_PKEY *key = NULL;
  int ok = 0;
  ERR_set_mark(); /* the host's errors stay, ours go */
  if (pem_len <= MAX_PEM) {
    key = public_key(pem, pem_len);
    problem = key_problem(key);
  }
  if (!problem) ok = verify(key, text, len, signature, signature_len);
  if (ok < 0) problem = "libcrypto refuses it";
  EVP_PKEY_free(key);
  ERR_pop_to_mark();
  if (!problem) {
    lua_pushboolean(L, ok);
    return 1;
  }
  lua_pushnil(L);
  lua_pushstring(L, problem);
  return 2;
}

/* ---- base64url (RFC 4648, 5), without padding --------------------------------- */

static const char alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* base64url_encode(bytes) -> text */
static int base64url_encode(lua_State *L) {
  size_t len, i;
  const char *in = luaL_checklstring(L, 1, &len);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (i = 0; i < len; i += 3) {
    size_t left = len - i < 3 ? len - i : 3, j;
    uint32_t bits = 0;
    for (j = 0; j < 3; j++)
      bits = bits << 8 | (j < left ? (unsigned char)in[i + j] : 0);
    for (j = 0; j <= left; j++)
      luaL_addchar(&b, alphabet[bits >> (18 - 6 * j) & 63]);
  }
  luaL_pushresult(&b);
  return 1;
}

static int digit(char c) {
  const char *at = c ? strchr(alphabet, c) : NULL;
  return at ? (int)(at - alphabet) : -1;
}

/* The bits of up to four digits, at the top of 24; false: no digits. */
static bool group(const char *in, size_t n, uint32_t *bits) {
  size_t j;
  *bits = 0;
  for (j = 0; j < 4; j++) {
    int value = j < n ? digit(in[j]) : 0;
    if (value < 0) return false;
    *bits = *bits << 6 | (uint32_t)value;
  }
  return true;
}

/* base64url_decode(text) -> bytes | nil, why. One text for each bytes: no
 * padding, no bits that say nothing. */
static int base64url_decode(lua_State *L) {
  size_t len, i, j;
  const char *in = luaL_checklstring(L, 1, &len);
  luaL_Buffer b;
  bool ok = len % 4 != 1;
  luaL_buffinit(L, &b);
  for (i = 0; ok && i < len; i += 4) {
    size_t n = len - i < 4 ? len - i : 4;
    uint32_t bits;
    ok = group(in + i, n, &bits) && (bits & (0xFFFFFFU >> (8 * (n - 1)))) == 0;
    for (j = 0; ok && j + 1 < n; j++)
      luaL_addchar(&b, (char)(bits >> (16 - 8 * j) & 255));
  }
  luaL_pushresult(&b);
  if (ok) return 1;
  lua_pushnil(L);
  lua_pushliteral(L, "it is no base64url");
  return 2;
}

int luaopen_mtenant_crypto(lua_State *L) {
  static const luaL_Reg functions[] = {{"unit", unit},
                                       {"sha256", sha256},
                                       {"hmac_sha256", hmac_sha256},
                                       {"verify_rs256", verify_rs256},
                                       {"base64url_encode", base64url_encode},
                                       {"base64url_decode", base64url_decode},
                                       {"equal", equal},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
