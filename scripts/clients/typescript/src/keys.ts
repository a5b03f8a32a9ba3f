// The compact form, the header and the signature: sections 1 and 2 of shared/handoff/SPEC.md.
import * as jose from "jose";
import { JsonError, parse, type Json } from "./strictjson.js";

/** Refusal says which check of the specification refused, and with which reason. */
export class Refusal extends Error {
  constructor(readonly reason: string, readonly check: string) {
    super(`${reason} (${check})`);
  }
}

/** Key is a public key under its thumbprint. */
export interface Key {
  kid: string;
  alg: string;
  key: jose.KeyLike | Uint8Array;
}

const algorithms = ["EdDSA", "ES256", "ES384", "PS256", "RS256"];
const invalid = (check: string) => new Refusal("TOKEN_INVALID", check);

/** isBase64url reports whether s is canonical base64url without padding. */
export function isBase64url(s: string): boolean {
  return /^[A-Za-z0-9_-]*$/.test(s) && s.length % 4 !== 1 && Buffer.from(s, "base64url").toString("base64url") === s;
}

/** readKey vets a JWK, or returns nothing where its kind is not known. It throws what is wrong with it. */
export async function readKey(jwk: Map<string, Json>): Promise<Key | undefined> {
  const text = (name: string) => {
    const value = jwk.get(name);
    if (value !== undefined && typeof value !== "string") throw new Error(`${name} is not a string`);
    return value as string | undefined;
  };
  const kty = text("kty");
  const crv = text("crv");
  for (const secret of ["d", "p", "q", "dp", "dq", "qi", "k", "oth"]) {
    if (jwk.has(secret)) throw new Error("a private or a symmetric key");
  }
  if ((text("use") ?? "sig") !== "sig") throw new Error("its use is not sig");
  const operations = jwk.get("key_ops");
  if (operations !== undefined && !(Array.isArray(operations) && operations.includes("verify"))) throw new Error("key_ops without verify");
  let alg = text("alg");
  if (alg === "Ed25519") alg = "EdDSA";
  const implied = { Ed25519: "EdDSA", "P-256": "ES256", "P-384": "ES384" }[crv ?? ""];
  let members: jose.JWK & { kty: string };
  const part = (name: string) => {
    const value = text(name);
    if (!value || !isBase64url(value)) throw new Error(`${name} is not base64url`);
    return value;
  };
  if (kty === "OKP" && crv === "Ed25519") members = { kty, crv, x: part("x") };
  else if (kty === "EC" && implied) members = { kty, crv: crv!, x: part("x"), y: part("y") };
  else if (kty === "RSA") {
    members = { kty, n: part("n"), e: part("e") };
    const bits = BigInt("0x" + Buffer.from(members.n!, "base64url").toString("hex")).toString(2).length;
    if (bits < 2048 || bits > 4096 || members.e !== "AQAB") throw new Error("a weak RSA key");
    if (alg !== "PS256" && alg !== "RS256") throw new Error("an RSA key says its alg");
  } else return undefined;
  if (kty !== "RSA" && alg !== undefined && alg !== implied) throw new Error("alg is not the key's");
  alg = kty === "RSA" ? alg! : implied!;
  return { kid: await jose.calculateJwkThumbprint(members, "sha256"), alg, key: await jose.importJWK({ ...members, alg }, alg) };
}

/** open returns the payload of a compact JWS of one kind, and the key that has signed it. */
export async function open(
  raw: string, typ: string, most: number, find: (kid: string, alg: string) => Key | undefined, mostHeader = 2048,
): Promise<{ payload: Uint8Array; key: Key }> {
  if (Buffer.byteLength(raw) > most) throw invalid("token.length");
  const parts = raw.split(".");
  if (parts.length !== 3 || parts.includes("")) throw invalid("token.parts");
  if (parts[0]!.length > mostHeader) throw invalid("token.length");
  if (!parts.every(isBase64url)) throw invalid("token.base64url");
  let header: Json;
  try {
    header = parse(Buffer.from(parts[0]!, "base64url"));
  } catch (e) {
    throw e instanceof JsonError ? invalid("header.json") : e;
  }
  if (!(header instanceof Map)) throw invalid("header.members");
  for (const [name, value] of header) {
    if (!["alg", "typ", "kid"].includes(name) || typeof value !== "string") throw invalid("header.members");
  }
  const member = (name: string) => (header.get(name) as string | undefined) ?? "";
  if (member("typ") !== typ) throw invalid("header.typ");
  if (member("kid").length !== 43 || !isBase64url(member("kid"))) throw invalid("header.kid");
  if (!algorithms.includes(member("alg"))) throw invalid("header.alg");
  const key = find(member("kid"), member("alg"));
  if (!key) throw invalid("key.unknown");
  if (key.alg !== member("alg")) throw invalid("key.alg");
  try {
    const { payload } = await jose.compactVerify(raw, key.key, { algorithms: [key.alg] });
    return { payload, key };
  } catch (e) {
    throw e instanceof jose.errors.JOSEError || e instanceof Error ? invalid("signature") : e;
  }
}
