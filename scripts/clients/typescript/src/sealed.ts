// Sealed tokens: section 7 of shared/handoff/SPEC.md. jose opens the JWE; what may be in its header is checked here.
import * as jose from "jose";
import { isBase64url, Refusal } from "./keys.js";
import { parse, type Json } from "./strictjson.js";

/** Unsealer opens what is sealed to an audience. */
export interface Unsealer {
  kid: string;
  key: jose.KeyLike | Uint8Array;
}

const invalid = (check: string) => new Refusal("TOKEN_INVALID", check);

export async function readUnsealKey(jwk: jose.JWK): Promise<Unsealer> {
  return { kid: await jose.calculateJwkThumbprint(jwk, "sha256"), key: await jose.importJWK(jwk, "ECDH-ES") };
}

/** isSealed reports whether a token is taken for a sealed one. */
export const isSealed = (raw: string) => raw.split(".").length === 5;

/** unseal returns the token in a sealed one, or throws a Refusal. */
export async function unseal(raw: string, keys: Unsealer[]): Promise<string> {
  if (Buffer.byteLength(raw) > 6144) throw invalid("token.length");
  const [header = "", encryptedKey, nonce = "", ciphertext = "", tag = ""] = raw.split(".");
  if (encryptedKey !== "" || header === "" || ciphertext === "") throw invalid("sealed.parts");
  if (header.length > 1024) throw invalid("token.length");
  if (![header, nonce, ciphertext, tag].every(isBase64url) || nonce.length !== 16 || tag.length !== 22) throw invalid("sealed.base64url");
  const kid = readHeader(header);
  const key = keys.find((k) => k.kid === kid);
  if (!key) throw invalid("sealed.key");
  let inner: string;
  try {
    const opened = await jose.compactDecrypt(raw, key.key, { keyManagementAlgorithms: ["ECDH-ES"], contentEncryptionAlgorithms: ["A256GCM"] });
    inner = Buffer.from(opened.plaintext).toString("latin1");
  } catch {
    throw invalid("sealed.open");
  }
  if (isSealed(inner)) throw invalid("sealed.inner");
  return inner;
}

// readHeader returns the kid of a header that is as it must be.
function readHeader(text: string): string {
  let header: Json;
  try {
    header = parse(Buffer.from(text, "base64url"));
  } catch {
    throw invalid("sealed.header");
  }
  const is = (object: Json | undefined, members: Record<string, (value: Json) => boolean>) =>
    object instanceof Map && object.size === Object.keys(members).length &&
    Object.entries(members).every(([name, valid]) => object.has(name) && valid(object.get(name)!));
  const coordinate = (value: Json) => typeof value === "string" && value.length === 43 && isBase64url(value);
  const good = is(header, {
    alg: (v) => v === "ECDH-ES",
    enc: (v) => v === "A256GCM",
    epk: (v) => is(v, { kty: (t) => t === "EC", crv: (c) => c === "P-256", x: coordinate, y: coordinate }),
    kid: coordinate,
    typ: (v) => v === "handoff-sealed+jwt",
    cty: (v) => v === "handoff+jwt",
  });
  if (!good) throw invalid("sealed.header");
  return (header as Map<string, Json>).get("kid") as string;
}
