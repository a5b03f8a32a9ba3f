// Strict JSON, as section 3 of shared/handoff/SPEC.md has it: unique names at every depth, valid UTF-8, no lone
// surrogates, one value and nothing behind it. JSON.parse takes the last of two equal names.

/** A number keeps its spelling: the specification takes only some. */
export class Numeral {
  constructor(readonly text: string) {}
}

export type Json = null | boolean | string | Numeral | Json[] | Map<string, Json>;

export class JsonError extends Error {}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** parse reads one document. It throws a JsonError. */
export function parse(bytes: Uint8Array): Json {
  let text: string;
  try {
    text = decoder.decode(bytes);
  } catch {
    throw new JsonError("not UTF-8");
  }
  const r = new Reader(text);
  const value = r.value();
  r.space();
  if (r.at < text.length) throw new JsonError("more than one value");
  return value;
}

class Reader {
  at = 0;
  constructor(readonly text: string) {}

  space() {
    while (" \t\n\r".includes(this.text[this.at] ?? "x")) this.at++;
  }

  take(pattern: RegExp): string {
    pattern.lastIndex = this.at; // each is sticky
    const found = pattern.exec(this.text);
    if (!found) throw new JsonError("bad syntax");
    this.at += found[0].length;
    return found[0];
  }

  value(): Json {
    this.space();
    switch (this.text[this.at]) {
      case "{":
        return this.object();
      case "[":
        return this.array();
      case '"':
        return this.string();
    }
    const word = this.take(/null|true|false|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y);
    return word === "null" ? null : word === "true" ? true : word === "false" ? false : new Numeral(word);
  }

  string(): string {
    const s = JSON.parse(this.take(/"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y)) as string;
    if (/\p{Surrogate}/u.test(s)) throw new JsonError("a lone surrogate");
    return s;
  }

  object(): Map<string, Json> {
    const members = new Map<string, Json>();
    this.list("}", () => {
      this.space();
      if (this.text[this.at] !== '"') throw new JsonError("no name");
      const name = this.string();
      this.space();
      this.take(/:/y);
      if (members.has(name)) throw new JsonError("two members of one name");
      members.set(name, this.value());
    });
    return members;
  }

  array(): Json[] {
    const elements: Json[] = [];
    this.list("]", () => elements.push(this.value()));
    return elements;
  }

  list(end: string, element: () => void) {
    this.at++;
    this.space();
    if (this.text[this.at] === end) {
      this.at++;
      return;
    }
    for (;;) {
      element();
      this.space();
      const next = this.text[this.at++];
      if (next === end) return;
      if (next !== ",") throw new JsonError("bad syntax");
    }
  }
}
