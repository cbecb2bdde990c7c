// JSON with comments and trailing commas: values with their place in the text, and edits that leave the rest as it is.
// Reads what storymem_core/script.py reads; the tests compare the two.

const MAX_DEPTH = 900; // about where the Python reader gives up
const BLANK = /[ \t\r\n]+|\/\/[^\r\n]*|\/\*[^]*?\*\//y;
const STRING = /"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?/y;
const WORD = /null|true|false|NaN|-?Infinity/y;
const COMMENTS_TO_END_OF_LINE = /(?:[ \t]*(?:\/\/[^\r\n]*|\/\*(?:(?!\*\/)[^\r\n])*\*\/))+(?=[ \t]*(?:[\r\n]|$))/y;
const WORDS = { null: null, true: true, false: false, NaN, Infinity, "-Infinity": -Infinity };

/**
 * The value in a text, as {kind, start, end, ...}: `value` of a "string" or "word" (null, true, ...); a "number" has
 * only its text, as large seeds do not fit into a JavaScript number; an "array" or "object" has `items`, each
 * {start, end, comma, value} and, of an object, `name`: `value` is the value in it, `comma` the place of the comma
 * after it, or null. Throws SyntaxError.
 */
export function parse(text) {
  let at = text.startsWith("\ufeff") ? 1 : 0;

  const match = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    at += found?.length ?? 0;
    return found;
  };
  const skip = () => {
    while (match(BLANK) !== undefined);
  };
  const take = (mark) => {
    skip();
    if (text[at] !== mark) return false;
    at += 1;
    return true;
  };
  const fail = (problem) => {
    throw new SyntaxError(`${problem} at ${at}`);
  };

  function string(start) {
    const found = match(STRING);
    if (found === undefined) fail("no text in quotes");
    return { kind: "string", start, end: at, value: JSON.parse(found) };
  }

  function value(depth) {
    skip();
    const start = at;
    if (depth > MAX_DEPTH) fail("brackets are nested too deeply");
    if (text[at] === '"') return string(start);
    if (text[at] === "[" || text[at] === "{") return container(start, depth);
    const word = match(WORD);
    if (word !== undefined) return { kind: "word", start, end: at, value: WORDS[word] };
    if (match(NUMBER) === undefined) fail("no value");
    return { kind: "number", start, end: at };
  }

  function container(start, depth) {
    const kind = text[at] === "[" ? "array" : "object";
    const close = kind === "array" ? "]" : "}";
    const items = [];
    at += 1;
    while (!take(close)) {
      if (items.length && items.at(-1).comma === null) fail("no comma");
      const item = { start: at };
      if (kind === "object") {
        item.name = string(at).value;
        if (!take(":")) fail("no colon");
      }
      item.value = value(depth + 1);
      item.start = kind === "object" ? item.start : item.value.start;
      item.end = at;
      item.comma = take(",") ? at - 1 : null;
      items.push(item);
    }
    return { kind, start, end: at, items };
  }

  const root = value(0);
  skip();
  if (at < text.length) fail("something follows the value");
  return root;
}

/** The value of a field; where the name is given twice, of the last one. */
export function field(object, name) {
  return object.items.findLast((item) => item.name === name)?.value;
}

/** A text with parts of it replaced: each [start, end, replacement], none overlapping. */
export function replace(text, parts) {
  const put = (all, [start, end, part]) => all.slice(0, start) + part + all.slice(end);
  return parts.toSorted((a, b) => b[0] - a[0]).reduce(put, text);
}

/**
 * The items of an array or object as pieces of text that can be put in another order, or elsewhere: {before, value,
 * after, trail}. A comment on lines of its own belongs to the item after it, one at the end of a line to the item
 * it follows.
 */
export function pieces(text, container) {
  let at = restOfLine(text, container.start + 1);
  return container.items.map(({ start, end, comma }) => {
    const rest = (comma ?? end - 1) + 1;
    const [before, value, after] = [text.slice(at, start), text.slice(start, end), text.slice(end, comma ?? end)];
    at = restOfLine(text, rest);
    return { before, value, after, trail: text.slice(rest, at) };
  });
}

/** A piece for a new value. */
export function piece(value) {
  return { before: "", value, after: "", trail: "" };
}

/** An array or object with other pieces in it, as a part for `replace`: spaces and line breaks stay where they are. */
export function refill(text, container, filling) {
  const old = pieces(text, container);
  const last = container.items.at(-1);
  const head = text.slice(container.start + 1, restOfLine(text, container.start + 1));
  const spaces = old.map(({ before }, i) => (isBlank(before) ? before : lineStart(before) ?? (i ? " " : "")));
  const others = spaces.slice(0, 2).findLast((space) => lineStart(space)) ?? " ";
  const space = (i) => spaces[i] ?? (i ? others : "");
  const used = old.reduce((sum, { before, value, after, trail }) => sum + (before + value + after + trail).length, 0);
  const commas = container.items.filter(({ comma }) => comma !== null).length;
  const tail = text.slice(container.start + 1 + head.length + used + commas, container.end - 1);

  let made = text[container.start] + head;
  let open = hasLineComment(head);
  const add = (part) => {
    made += open && !/^[\r\n]/.test(part) ? `\n${part}` : part;
    open = false;
  };
  filling.forEach(({ before, value, after, trail }, i) => {
    const comma = i < filling.length - 1 || (last?.comma ?? null) !== null ? "," : "";
    add(isBlank(before) ? space(i) : before);
    made += value + after + comma + trail;
    open = hasLineComment(trail);
  });
  add(tail);
  return [container.start, container.end, made + text[container.end - 1]];
}

/** The end of the comments that end the line after a place; the place itself where something else follows. */
function restOfLine(text, start) {
  COMMENTS_TO_END_OF_LINE.lastIndex = start;
  return start + (COMMENTS_TO_END_OF_LINE.exec(text)?.[0].length ?? 0);
}

/** The line break and indentation that spaces end with, if they do. */
export function lineStart(space) {
  return /\r?\n[ \t]*$/.exec(space)?.[0];
}

function isBlank(space) {
  return /^\s*$/.test(space);
}

function hasLineComment(comments) {
  return comments.replace(/\/\*[^]*?\*\//g, "").includes("//");
}
