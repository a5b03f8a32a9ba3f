// A second reader of trust lists, written from nothing but the text of shared/trust/SPEC.md.
import { createHash } from "node:crypto";
import { isBase64url, open, readKey, Refusal, type Key } from "./keys.js";
import { parse, type Json } from "./strictjson.js";
import { integer, isName, type Claims } from "./verifier.js";

/** Fault is why a list is refused. check is that of its signature. */
export class Fault extends Error {
  constructor(readonly fault: string, readonly check?: string) {
    super(check ? `${fault} (${check})` : fault);
  }
}

export interface TrustList {
  raw: string; // the statement
  iss: string;
  iat: number;
  exp: number;
  seq: number;
  keys: Key[];
  revoked: (claims: Pick<Claims, "jti" | "sid" | "sub" | "iat">) => boolean;
}

export interface FollowerConfig {
  issuer: string;
  trustKeys: Key[];
  now: () => number; // Unix seconds
  skew?: number;
  maxAge?: number;
}

const sha256 = (text: string) => createHash("sha256").update(text).digest("base64url");
const nothing = '{"tokens":[],"sessions":[],"subjects":{}}';

/** read returns the list in a file's form, statement and entries, if it may replace the one in force. It throws a Fault. */
export async function read(text: string, config: FollowerConfig, inForce?: TrustList): Promise<TrustList> {
  const { issuer, trustKeys, skew = 5, maxAge = 10 } = config;
  const now = config.now();
  const [raw = "", ...rest] = text.split("\n");
  let payload: Uint8Array;
  try {
    const find = (kid: string) => trustKeys.find((k) => k.kid === kid);
    payload = (await open(raw, "handoff-trust+jwt", 128 << 10, find, 511)).payload;
  } catch (e) {
    throw e instanceof Refusal ? new Fault("signature", e.check) : e;
  }
  const { list, digest } = await decode(payload, raw);
  if (list.iss !== issuer) throw new Fault("issuer");
  if (list.keys.some((k) => trustKeys.some((t) => t.kid === k.kid))) throw new Fault("keys");
  if (list.iat > now + skew || list.seq > (now + skew) * 1000) throw new Fault("future");
  if (now >= list.exp) throw new Fault("expired");
  if (now >= list.iat + maxAge) throw new Fault("stale");
  if (inForce && raw !== inForce.raw && list.seq <= inForce.seq) throw new Fault("rolled_back");
  const entries = rest[0] || nothing;
  if (rest.length > 2 || (rest[1] ?? "") !== "" || sha256(entries) !== digest) throw new Fault("entries");
  list.revoked = readEntries(entries, list.iss);
  return list;
}

async function decode(payload: Uint8Array, raw: string): Promise<{ list: TrustList; digest: string }> {
  const bad = new Fault("schema");
  let object: Json;
  try {
    object = parse(payload);
  } catch {
    throw bad;
  }
  if (!(object instanceof Map) || object.size !== 6) throw bad;
  const [iss, jwks, digest] = [object.get("iss"), object.get("keys"), object.get("revoked_sha256")];
  const [iat, exp] = [integer(object.get("iat"), 253402300799), integer(object.get("exp"), 253402300799)];
  const seq = integer(object.get("seq"));
  if (!isName(iss) || !iat || !exp || !seq || exp <= iat || exp - iat > 86400) throw bad;
  if (typeof digest !== "string" || digest.length !== 43 || !isBase64url(digest) || !Array.isArray(jwks)) throw bad;
  const keys: Key[] = [];
  for (const jwk of jwks) {
    if (!(jwk instanceof Map)) throw bad;
    let key: Key | undefined;
    try {
      key = await readKey(jwk);
    } catch {
      throw bad;
    }
    if (key && keys.some((k) => k.kid === key.kid)) throw bad;
    if (key) keys.push(key);
  }
  if (keys.length < 1 || keys.length > 64) throw bad;
  return { list: { raw, iss, iat, exp, seq, keys, revoked: () => false }, digest };
}

// readEntries reads entries in their one spelling: what it makes of them again is the same text.
function readEntries(text: string, iss: string): TrustList["revoked"] {
  const bad = new Fault("entries");
  let object: Json;
  try {
    object = parse(Buffer.from(text));
  } catch {
    throw bad;
  }
  if (!(object instanceof Map)) throw bad;
  const ids = (name: string): string[] => {
    const list = object.get(name);
    if (!Array.isArray(list) || !list.every((id) => typeof id === "string" && id.length === 22 && isBase64url(id))) throw bad;
    return list as string[];
  };
  const ascending = (list: string[], bytes = (s: string) => Buffer.from(s)) =>
    list.every((id, i) => i === 0 || Buffer.compare(bytes(list[i - 1]!), bytes(id)) < 0);
  const [tokens, sessions, cutOffs] = [ids("tokens"), ids("sessions"), object.get("subjects")];
  const all = object.has("all") ? integer(object.get("all")) : 0;
  if (!(cutOffs instanceof Map) || all === undefined || (object.has("all") && all < 1)) throw bad;
  const subjects = new Map<string, number>();
  for (const [digest, at] of cutOffs) {
    const cutOff = integer(at);
    if (cutOff === undefined || digest.length !== 43 || !isBase64url(digest)) throw bad;
    subjects.set(digest, cutOff);
  }
  const again = JSON.stringify({ ...(all ? { all } : {}), tokens, sessions, subjects: Object.fromEntries(subjects) });
  if (again !== text || !ascending(tokens) || !ascending(sessions) || !ascending([...subjects.keys()], (s) => Buffer.from(s, "base64url"))) throw bad;
  const [tokenSet, sessionSet] = [new Set(tokens), new Set(sessions)];
  return (c) =>
    all >= c.iat || tokenSet.has(c.jti) || (c.sid !== undefined && sessionSet.has(c.sid)) || (subjects.get(sha256(`${iss}\0${c.sub}`)) ?? -1) >= c.iat;
}
