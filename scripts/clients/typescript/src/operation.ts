// From a request to its fields: section 6 of shared/handoff/SPEC.md, over protobuf-es's reflection.
import { createHash } from "node:crypto";
import {
  ScalarType, getOption, type DescEnum, type DescField, type DescMessage, type DescMethod, type Message,
} from "@bufbuild/protobuf";
import { reflect, type ReflectMessage } from "@bufbuild/protobuf/reflect";
import { rule } from "./gen/handoff/v1/rule_pb.js";
import { Refusal } from "./keys.js";

/** Operation is one call: the fields of its request by path, in bound those that a token must name. */
export interface Operation {
  method: string;
  bound: Map<string, string>;
  free: Map<string, string>;
}

const unbindable = () => new Refusal("REQUEST_UNBINDABLE", "operation.bind");

/** operationOf returns the operation of a request. */
export function operationOf(method: DescMethod, request: Message): Operation {
  const op: Operation = { method: `/${method.parent.typeName}/${method.name}`, bound: new Map(), free: new Map() };
  const freed = getOption(method, rule).free.map((path) => path.split("."));
  const walk = new Walk(op.bound, op.free);
  walk.message("", reflect(method.input, request), freed, false, 0);
  return op;
}

/** canonical returns the RFC 8785 JSON of bound fields. JavaScript compares strings by their UTF-16 code units, as it demands. */
export function canonical(fields: Map<string, string>): string {
  const paths = [...fields.keys()].sort((a, b) => (a < b ? -1 : 1));
  return `{${paths.map((path) => `${JSON.stringify(path)}:${JSON.stringify(fields.get(path))}`).join(",")}}`;
}

/** digestOf returns what a token carries in the place of fields that are too long. */
export function digestOf(fields: Map<string, string>): string {
  return createHash("sha256").update(canonical(fields)).digest("base64url");
}

class Walk {
  private size = 0;
  private count = 0;
  constructor(private bound: Map<string, string>, private free: Map<string, string>) {}

  // message gives what is in a message. Where that is free, what cannot be named is an error too, and left out by who asked.
  message(at: string, m: ReflectMessage, freed: string[][], free: boolean, depth: number) {
    if (depth > 32 || (m.message.$unknown?.length ?? 0) > 0) throw unbindable();
    for (const field of m.fields) {
      if (!m.isSet(field) && !negativeZero(m, field)) continue;
      const path = at === "" ? field.name : `${at}.${field.name}`;
      const below = freed.filter((f) => f[0] === field.name).map((f) => f.slice(1));
      this.field(path, m, field, below.filter((f) => f.length > 0), free || below.some((f) => f.length === 0), free, depth);
    }
  }

  private field(path: string, m: ReflectMessage, field: DescField, below: string[][], free: boolean, already: boolean, depth: number) {
    if (free && !already) {
      // A freed field is left out with everything below it if it cannot be named.
      const apart = new Map<string, string>();
      try {
        new Walk(apart, apart).populated(path, m, field, below, true, depth);
      } catch (e) {
        if (e instanceof Refusal) return;
        throw e;
      }
      for (const [name, value] of apart) this.free.set(name, value);
      return;
    }
    this.populated(path, m, field, below, free, depth);
  }

  private populated(path: string, m: ReflectMessage, field: DescField, below: string[][], free: boolean, depth: number) {
    const unchecked = "utf8Validation" in field && field.utf8Validation === false;
    const one = (at: string, value: unknown, kind: { message?: DescMessage; enum?: DescEnum; scalar?: ScalarType }) => {
      // protobuf-es puts U+FFFD where such a field is not UTF-8, and so cannot tell the two apart: the strict side.
      if (unchecked && (at.includes("\ufffd") || (typeof value === "string" && value.includes("\ufffd")))) throw unbindable();
      if (kind.message) {
        if (("delimitedEncoding" in field && field.delimitedEncoding) || kind.message.proto.extensionRange.length > 0) throw unbindable();
        this.add(at, "{}", free);
        this.message(at, value as ReflectMessage, below, free, depth + 1);
      } else this.add(at, textOf(value, kind.enum, kind.scalar), free);
    };
    switch (field.fieldKind) {
      case "list":
        [...m.get(field)].forEach((value, i) => one(`${path}[${i}]`, value, field as never));
        break;
      case "map":
        for (const [key, value] of m.get(field)) one(`${path}[${JSON.stringify(keyOf(key))}]`, value, field as never);
        break;
      default:
        one(path, m.get(field), field as never);
    }
  }

  private add(path: string, value: string, free: boolean) {
    const bytes = Buffer.byteLength(path) + Buffer.byteLength(value);
    if (Buffer.byteLength(path) > 1024 || (free && Buffer.byteLength(value) > 4096)) throw unbindable();
    if (++this.count > 16384 || (this.size += bytes) > 1048576) throw unbindable();
    (free ? this.free : this.bound).set(path, value);
  }
}

// negativeZero: a float without presence that is -0 is populated, and protobuf-es holds it for unset.
function negativeZero(m: ReflectMessage, field: DescField): boolean {
  return field.fieldKind === "scalar" && (field.scalar === ScalarType.DOUBLE || field.scalar === ScalarType.FLOAT) &&
    field.oneof === undefined && field.presence === 2 && Object.is(m.get(field), -0);
}

function keyOf(key: unknown): string {
  const text = String(key);
  if (/\p{Surrogate}/u.test(text)) throw unbindable();
  return text;
}

function textOf(value: unknown, enumeration?: DescEnum, scalar?: ScalarType): string {
  if (enumeration) {
    if (!enumeration.values.some((v) => v.number === value)) throw unbindable();
    return String(value);
  }
  switch (scalar) {
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT: {
      if (Number.isNaN(value)) throw unbindable();
      const bits = Buffer.alloc(scalar === ScalarType.DOUBLE ? 8 : 4);
      if (scalar === ScalarType.DOUBLE) bits.writeDoubleBE(value as number);
      else bits.writeFloatBE(value as number);
      return bits.toString("hex");
    }
    case ScalarType.BYTES:
      return Buffer.from(value as Uint8Array).toString("base64url");
    case ScalarType.STRING:
      if (/\p{Surrogate}/u.test(value as string)) throw unbindable();
      return value as string;
  }
  return String(value);
}

