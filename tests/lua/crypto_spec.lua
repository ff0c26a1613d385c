--- mtenant.crypto: sums and signatures, against those that openssl makes and
--- the vectors of the standards.

local crypto = require "mtenant.crypto"


local function hex(bytes)
  return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end


local dir


--- What a shell command prints; it runs in a directory of its own.
local function shell(command)
  local pipe = assert(io.popen("cd " .. dir .. " && " .. command .. " 2>&1"))
  local out = pipe:read("*a")
  pipe:close()
  return out
end


local function file(name)
  local f = assert(io.open(dir .. "/" .. name, "rb"))
  local text = f:read("*a")
  f:close()
  return text
end


setup(function()
  local pipe = assert(io.popen("mktemp -d"))
  dir = pipe:read("*l")
  pipe:close()
end)

teardown(function() os.execute("rm -r " .. dir) end)


describe("sha256", function()
  it("is that of the standard", function()
    assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852"
      .. "b855", crypto.sha256(""))
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f200"
      .. "15ad", crypto.sha256("abc"))
  end)

  it("is that of bytes, NUL and all", function()
    assert.not_equal(crypto.sha256("a"), crypto.sha256("a\0"))
  end)
end)


describe("unit", function()
  it("is the first 53 bits of the sum", function()
    for _, text in ipairs({ "", "abc", "acme/eu1" }) do
      local sum = crypto.sha256(text)
      local high = tonumber(sum:sub(1, 8), 16)
      local low = tonumber(sum:sub(9, 14), 16)
      local last = math.floor(tonumber(sum:sub(15, 16), 16) / 8)
      -- 32 + 24 - 3 bits: the last three of the second half go
      local expected = high / 2 ^ 32
        + math.floor((low * 256 + last * 8) / 2 ^ 11) / 2 ^ 53
      assert.equal(expected, crypto.unit(text))
    end
  end)

  it("is at home in [0, 1) and evenly so", function()
    local buckets = {}
    for i = 1, 10 do buckets[i] = 0 end
    for i = 1, 20000 do
      local u = crypto.unit("tenant" .. i)
      assert.is_true(u >= 0 and u < 1)
      local b = math.floor(u * 10) + 1
      buckets[b] = buckets[b] + 1
    end
    for i = 1, 10 do
      assert.is_true(buckets[i] > 1800 and buckets[i] < 2200, tostring(buckets[i]))
    end
  end)

  it("never changes", function()
    assert.equal(0.72839491, math.floor(crypto.unit("abc") * 1e8) / 1e8)
  end)
end)


describe("hmac_sha256", function()
  it("is that of RFC 4231", function()
    assert.equal("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32"
      .. "cff7", hex(crypto.hmac_sha256(("\11"):rep(20), "Hi There")))
    assert.equal("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec"
      .. "3843", hex(crypto.hmac_sha256("Jefe", "what do ya want for nothing?")))
    assert.equal("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee3"
      .. "7f54", hex(crypto.hmac_sha256(("\170"):rep(131),
      "Test Using Larger Than Block-Size Key - Hash Key First")))
    assert.equal(32, #crypto.hmac_sha256("", ""))
  end)
end)


describe("base64url", function()
  it("goes there and back", function()
    math.randomseed(7)
    for n = 0, 200 do
      local bytes = {}
      for i = 1, n do bytes[i] = string.char(math.random(0, 255)) end
      local text = table.concat(bytes)
      local encoded = crypto.base64url_encode(text)
      assert.is_nil(encoded:find("[^%w_-]"))
      assert.equal(text, crypto.base64url_decode(encoded))
    end
  end)

  it("is that of RFC 4648, without padding", function()
    for text, encoded in pairs({ [""] = "", f = "Zg", fo = "Zm8", foo = "Zm9v",
                                 foob = "Zm9vYg", ["\251\255"] = "-_8" }) do
      assert.equal(encoded, crypto.base64url_encode(text))
    end
  end)

  it("takes one text for each bytes", function()
    for _, text in ipairs({ "A", "Zg==", "Zg=", "Zh", "Zm9", "Zm9v ", "Zm9v\n",
                            "+/8", "Zm9vY", "Zm\0v", "\0", "Zm9\255" }) do
      local value, why = crypto.base64url_decode(text)
      assert.is_nil(value, text)
      assert.equal("it is no base64url", why)
    end
  end)
end)


describe("equal", function()
  it("compares bytes", function()
    for _, pair in ipairs { { "", "" }, { "a", "a" }, { ("x"):rep(99), ("x"):rep(99) },
                            { "a\0b", "a\0b" } } do
      assert.is_true(crypto.equal(pair[1], pair[2]))
    end
    for _, pair in ipairs { { "", "a" }, { "a", "" }, { "a", "b" }, { "aa", "a" },
                            { "a", "aa" }, { "a", "ab" }, { "abab", "ab" },
                            { "\0", "" }, { "a\0b", "a\0c" } } do
      assert.is_false(crypto.equal(pair[1], pair[2]))
    end
  end)
end)


describe("verify_rs256", function()
  local pem, signature, text = nil, nil, "header.payload"

  setup(function()
    shell("openssl genrsa -out key.pem 2048")
    shell("openssl rsa -in key.pem -pubout -out pub.pem")
    shell("printf %s header.payload | openssl dgst -sha256 -sign key.pem "
      .. "-out sig")
    shell("openssl req -x509 -key key.pem -subj /CN=x -days 1 -out cert.pem")
    pem, signature = file("pub.pem"), file("sig")
  end)

  it("knows a signature that openssl has made", function()
    assert.is_true(crypto.verify_rs256(pem, text, signature))
    assert.is_true(crypto.verify_rs256(file("cert.pem"), text, signature))
  end)

  it("knows one that it has not", function()
    assert.is_false(crypto.verify_rs256(pem, text .. "x", signature))
    assert.is_false(crypto.verify_rs256(pem, text, ""))
    assert.is_false(crypto.verify_rs256(pem, text, signature:sub(1, -2)))
    assert.is_false(crypto.verify_rs256(pem, text, signature .. "x"))
    assert.is_false(crypto.verify_rs256(pem, text, ("\0"):rep(256)))
    for i = 1, 256, 37 do
      local c = string.char((signature:byte(i) + 1) % 256)
      local forged = signature:sub(1, i - 1) .. c .. signature:sub(i + 1)
      assert.is_false(crypto.verify_rs256(pem, text, forged))
    end
  end)

  it("says what is wrong with a key", function()
    shell("openssl genrsa -out short.pem 1024")
    shell("openssl rsa -in short.pem -pubout -out short.pub")
    shell("openssl ecparam -name prime256v1 -genkey -noout -out ec.pem")
    shell("openssl ec -in ec.pem -pubout -out ec.pub")
    shell("openssl rsa -in key.pem -aes128 -passout pass:x -out locked.pem")
    for bad, why in pairs({
      [""] = "no PEM", ["x"] = "no PEM", [file("key.pem")] = "no PEM",
      [file("locked.pem")] = "no PEM",
      [pem:sub(1, 100)] = "no PEM", [pem:gsub("[A-Z]", "A") .. ""] = "no PEM",
      [("x"):rep(20000)] = "16 KiB", [file("ec.pub")] = "no RSA key",
      [file("short.pub")] = "2048 bits",
    }) do
      local ok, text_of_err = crypto.verify_rs256(bad, text, signature)
      assert.is_nil(ok)
      assert.truthy(text_of_err:find(why, 1, true), text_of_err)
    end
  end)
end)


describe("wrong types", function()
  it("raise", function()
    for _, f in pairs(crypto) do
      assert.has_error(function() f() end)
      assert.has_error(function() f({}) end)
    end
  end)
end)
