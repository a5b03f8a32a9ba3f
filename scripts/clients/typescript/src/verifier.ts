// A second verifier of handoff tokens, written from nothing but the text of shared/handoff/SPEC.md: sections 1 to 7.
import { createHash } from "node:crypto";
import { open, isBase64url, Refusal, type Key } from "./keys.js";
import { canonical, digestOf, type Operation } from "./operation.js";
import { isSealed, unseal, type Unsealer } from "./sealed.js";
import { JsonError, Numeral, parse, type Json } from "./strictjson.js";

export interface Claims {
  iss: string;
  aud: string;
  sub: string;
  iat: number;
  exp: number;
  nbf?: number;
  jti: string;
  sid?: string;
  act?: string; // act.sub
  cnf?: string; // cnf's x5t#S256
  method: string;
  fields?: Map<string, string>;
  fieldsSha256?: string;
}

export interface VerifierConfig {
  audience: string;
  issuers: Map<string, Key[]>;
  now: () => number; // Unix seconds
  maxLifetime?: number;
  skew?: number;
  revoked?: (claims: Claims) => boolean;
  unseal?: Unsealer[];
}

const claimsInvalid = (check: string) => new Refusal("CLAIMS_INVALID", check);

export const isName = (s: unknown): s is string => typeof s === "string" && /^[\x21\x23-\x5b\x5d-\x7e]{1,255}$/.test(s);
const isRandom = (s: unknown): s is string => typeof s === "string" && s.length === 22 && isBase64url(s);
const isMethod = (s: unknown): s is string =>
  typeof s === "string" && s.length <= 255 && /^\/[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\/[A-Za-z_]\w*$/.test(s);

/** integer returns a number in the one spelling that the specification takes, or nothing. */
export function integer(value: Json | undefined, most = Number.MAX_SAFE_INTEGER): number | undefined {
  if (!(value instanceof Numeral) || !/^(0|[1-9]\d{0,15})$/.test(value.text)) return undefined;
  return Number(value.text) <= most ? Number(value.text) : undefined;
}

/** Verifier checks handoff tokens for one audience. What it accepts is still to be spent, once, by (iss, jti). */
export class Verifier {
  constructor(private readonly config: VerifierConfig) {}

  /**
   * verify returns the claims of a token that is authentic and current, or throws a Refusal. certificate is that of the
   * client whose connection has brought it, in DER, if it has one.
   */
  async verify(raw: string, certificate?: Uint8Array): Promise<Claims> {
    const { issuers, audience, now, maxLifetime = 300, skew = 5, revoked = () => false, unseal: keys } = this.config;
    if (keys && isSealed(raw)) raw = await unseal(raw, keys);
    const all = [...issuers.values()].flat();
    const { payload, key } = await open(raw, "handoff+jwt", 4096, (kid, alg) =>
      all.find((k) => k.kid === kid && k.alg === alg) ?? all.find((k) => k.kid === kid));
    const claims = decode(payload);
    const listed = issuers.get(claims.iss)?.some((k) => k.kid === key.kid && k.alg === key.alg);
    if (!listed) throw new Refusal("ISSUER_MISMATCH", "verify.iss");
    if (claims.aud !== audience) throw new Refusal("AUDIENCE_MISMATCH", "verify.aud");
    if (claims.exp - claims.iat > maxLifetime) throw new Refusal("LIFETIME_TOO_LONG", "verify.lifetime");
    if (now() >= claims.exp) throw new Refusal("TOKEN_EXPIRED", "verify.exp");
    if (claims.iat > now() + skew) throw new Refusal("TOKEN_NOT_YET_VALID", "verify.iat");
    if ((claims.nbf ?? 0) > now() + skew) throw new Refusal("TOKEN_NOT_YET_VALID", "verify.nbf");
    if (claims.cnf !== undefined && (!certificate || claims.cnf !== createHash("sha256").update(certificate).digest("base64url"))) {
      throw new Refusal("CERTIFICATE_MISMATCH", "verify.cnf");
    }
    if (revoked(claims)) throw new Refusal("TOKEN_REVOKED", "verify.revoked");
    return claims;
  }
}

/** allows throws a Refusal unless the token names the call that is about to run; actors is what the method's rule says. */
export function allows(claims: Claims, op: Operation, actors = false): void {
  if (claims.act !== undefined && !actors) throw new Refusal("ACTOR_DENIED", "redeem.actors");
  if (claims.method !== op.method) throw new Refusal("METHOD_MISMATCH", "operation.method");
  if (claims.fields === undefined) {
    if (claims.fieldsSha256 !== digestOf(op.bound)) throw new Refusal("FIELD_MISMATCH", "operation.digest");
    return;
  }
  for (const [path, value] of claims.fields) {
    if ((op.bound.get(path) ?? op.free.get(path)) !== value) throw new Refusal("FIELD_MISMATCH", "operation.value");
  }
  for (const path of op.bound.keys()) {
    if (!claims.fields.has(path)) throw new Refusal("FIELD_MISMATCH", "operation.unnamed");
  }
}

function decode(payload: Uint8Array): Claims {
  let object: Json;
  try {
    object = parse(payload);
  } catch (e) {
    throw e instanceof JsonError ? claimsInvalid("payload.json") : e;
  }
  if (!(object instanceof Map)) throw claimsInvalid("payload.json");
  const known = ["iss", "aud", "sub", "iat", "exp", "nbf", "jti", "sid", "act", "cnf", "authorization_details"];
  for (const name of object.keys()) if (!known.includes(name)) throw claimsInvalid("payload.members");
  const claim = <T>(name: string, required: boolean, read: (value: Json) => T | undefined): T => {
    const value = object.get(name);
    if (value === undefined && !required) return undefined as T;
    const found = value === undefined ? undefined : read(value);
    if (found === undefined) throw claimsInvalid(`claim.${name}`);
    return found;
  };
  const text = (valid: (s: unknown) => s is string) => (value: Json) => (valid(value) ? value : undefined);
  const seconds = (value: Json) => integer(value, 253402300799);
  const claims: Claims = {
    iss: claim("iss", true, text(isName)),
    aud: claim("aud", true, text(isName)),
    sub: claim("sub", true, text(isName)),
    iat: claim("iat", true, seconds),
    exp: claim("exp", true, seconds),
    nbf: claim("nbf", false, seconds),
    jti: claim("jti", true, text(isRandom)),
    sid: claim("sid", false, text(isRandom)),
    act: claim("act", false, actor),
    cnf: claim("cnf", false, confirmation),
    ...claim("authorization_details", true, details),
  };
  if (claims.exp <= claims.iat) throw claimsInvalid("claim.exp");
  if (claims.nbf !== undefined && claims.nbf >= claims.exp) throw claimsInvalid("claim.nbf");
  return claims;
}

function actor(value: Json): string | undefined {
  const sub = value instanceof Map && value.size === 1 ? value.get("sub") : undefined;
  return isName(sub) ? sub : undefined;
}

function confirmation(value: Json): string | undefined {
  const digest = value instanceof Map && value.size === 1 ? value.get("x5t#S256") : undefined;
  return typeof digest === "string" && digest.length === 43 && isBase64url(digest) ? digest : undefined;
}

function details(value: Json): Pick<Claims, "method" | "fields" | "fieldsSha256"> | undefined {
  if (!Array.isArray(value) || value.length !== 1 || !(value[0] instanceof Map)) return undefined;
  const object = value[0];
  const actions = object.get("actions");
  const fields = object.get("fields");
  const digest = object.get("fields_sha256");
  for (const name of object.keys()) if (!["type", "actions", "fields", "fields_sha256"].includes(name)) return undefined;
  if (object.get("type") !== "grpc_call" || !Array.isArray(actions) || actions.length !== 1 || !isMethod(actions[0])) return undefined;
  if ((fields === undefined) === (digest === undefined)) return undefined;
  if (digest !== undefined) {
    return typeof digest === "string" && digest.length === 43 && isBase64url(digest) ? { method: actions[0], fieldsSha256: digest } : undefined;
  }
  if (!(fields instanceof Map) || fields.size > 64) return undefined;
  const named = new Map<string, string>();
  for (const [path, text] of fields) {
    if (typeof text !== "string") return undefined;
    named.set(path, text);
  }
  return Buffer.byteLength(canonical(named)) <= 1024 ? { method: actions[0], fields: named } : undefined;
}
